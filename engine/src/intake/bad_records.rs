//! What becomes of an input's bad records, and of the rows that user code fails on behind it: each is counted, and kept,
//! dropped, or the end of the job.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::record_batch::RecordBatch;

use super::{InputCounters, IntakeOptions, OnBadRecord};
use crate::{
    EngineError, ErrorKind, Result,
    dead_letter::{DeadLetter, DeadLetters},
    decoder::BadClass,
    user_code::FailedRow,
};

/// Writes a row as the text that a dead letter holds in place of a payload.
pub type RowText = fn(&RecordBatch) -> Result<Vec<u8>>;

/// The policy of one input. See the module.
#[derive(Clone)]
pub struct BadRecords {
    input: String,
    policy: OnBadRecord,
    counters: Arc<InputCounters>,
    letters: Arc<Mutex<dyn DeadLetters>>,
}

impl BadRecords {
    /// Of the input of this name.
    #[must_use]
    pub fn of(input: &str, options: &IntakeOptions) -> Self {
        Self {
            input: input.to_owned(),
            policy: options.on_bad_record,
            counters: Arc::clone(&options.counters),
            letters: Arc::clone(&options.dead_letters),
        }
    }

    /// Takes one record.
    ///
    /// # Errors
    /// Under [`OnBadRecord::Fail`], and of the dead letters.
    pub(super) fn take(&self, letter: &DeadLetter<'_>) -> Result<()> {
        let DeadLetter { topic, partition, offset, message, .. } = letter;
        self.settle(letter, || format!("bad record in `{topic}` partition {partition} offset {offset}: {message}"))
    }

    /// With other dead letters.
    #[must_use]
    pub fn kept_by(self, letters: &Arc<Mutex<dyn DeadLetters>>) -> Self {
        Self { letters: Arc::clone(letters), ..self }
    }

    /// Takes a row that is no record any more. Its letter has no place in a topic, so that nobody replays it.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(crate) fn take_row(&self, failed: &FailedRow, covering: u8, text: RowText) -> Result<()> {
        let place = failed.origin().and_then(|(_, partition, offset)| {
            let (topic, number) = self.counters.place(partition)?;
            Some(format!("; of the record in `{topic}` partition {number} offset {offset}"))
        });
        let message = format!("{}{}", failed.message, place.unwrap_or_default());
        let letter = DeadLetter {
            input: &self.input,
            topic: "",
            partition: -1,
            offset: -1,
            timestamp_ms: failed.time().0.div_euclid(1_000),
            key: None,
            value: Some(&text(&failed.values()?)?),
            headers: &[],
            class: BadClass::Function,
            message: &message,
            covering,
        };
        self.settle(&letter, || format!("a row failed: {message}"))
    }

    fn settle(&self, letter: &DeadLetter<'_>, failure: impl FnOnce() -> String) -> Result<()> {
        let is_new = letter.covering == 0; // otherwise it was counted by the run that took it first
        if is_new {
            self.counters.bad(letter.class);
        }
        match self.policy {
            OnBadRecord::Drop => Ok(()),
            OnBadRecord::Fail if !is_new => Ok(()),
            OnBadRecord::Fail => {
                Err(EngineError::Source { input: self.input.clone(), kind: ErrorKind::Data, message: failure() })
            }
            OnBadRecord::DeadLetter => self.letters.lock().unwrap_or_else(PoisonError::into_inner).put(letter),
        }
    }
}
