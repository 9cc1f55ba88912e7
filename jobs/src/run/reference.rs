//! Reference data of a run: read whole before the first row, and again on its schedule.
//!
//! A version that is read again holds from the wall clock's time on at which reading began: rows of before keep seeing the
//! one before.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use tidemill_connectors::{
    files::{FileSource, list_files},
    kafka::Start,
    replay::KeptSource,
};
use tidemill_engine::{
    EngineError, ErrorKind, EventTime, Monotonic,
    dataflow::plan::{Dataflow, TablePlan},
    dead_letter::DeadLetters,
    event_time::{BrokerClocks, TimeRule},
    intake::{BATCH_ROWS, IntakeOptions},
    reference::load,
    source::{PartitionId, Source},
};

use super::{
    RunOptions,
    decoding::{decoders, file_format},
    error::RunError,
    inputs::{ConnectedInput, Transport, on_bad_record},
};
use crate::spec::InputTransport;

/// The reference data of a run.
pub(super) struct References {
    tables: Vec<Table>,
}

struct Table {
    reader: Arc<Reader>,
    /// Between two readings, in microseconds.
    refresh_us: Option<i64>,
    begun: Monotonic,
    reading: Option<JoinHandle<Result<(), RunError>>>,
}

/// What reading takes.
struct Reader {
    input: ConnectedInput,
    plan: TablePlan,
    options: RunOptions,
    letters: Arc<Mutex<dyn DeadLetters>>,
}

impl References {
    /// Reads all of it. `connected` are the inputs that are reference data.
    ///
    /// # Errors
    /// Of the first that cannot be read.
    pub(super) fn read(
        connected: Vec<ConnectedInput>,
        dataflow: &Dataflow,
        options: &RunOptions,
        letters: &Arc<Mutex<dyn DeadLetters>>,
    ) -> Result<Self, RunError> {
        let mut tables = vec![];
        for input in connected {
            let Some(plan) = dataflow.tables.iter().find(|t| t.columns.name == input.spec.name) else { continue };
            let refresh_us = input.spec.reference.as_ref().and_then(|r| r.refresh).map(|refresh| refresh.micros());
            let (plan, options, letters) = (plan.clone(), options.clone(), Arc::clone(letters));
            let begun = options.clock.monotonic();
            let reader = Arc::new(Reader { input, plan, options, letters });
            reader.read(EventTime::MIN)?;
            let name = &reader.input.spec.name;
            tracing::info!("reference data `{name}`: {} rows", reader.plan.rows.rows().unwrap_or(0));
            tables.push(Table { reader, refresh_us, begun, reading: None });
        }
        Ok(Self { tables })
    }

    /// Begins what is due, in threads of its own, and looks at what has ended. What cannot be reached is tried again when it
    /// is due again; its rows stay as they are.
    ///
    /// # Errors
    /// Of a reading that must not be tried again.
    pub(super) fn tend(&mut self, now: Monotonic) -> Result<(), RunError> {
        for table in &mut self.tables {
            if let Some(reading) = table.reading.take_if(|reading| reading.is_finished()) {
                let name = &table.reader.input.spec.name;
                match reading.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if error.kind() == ErrorKind::Unavailable => {
                        tracing::warn!("reference data `{name}` stays as it was: {error}");
                    }
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {
                        let message = "reading it again panicked".to_owned();
                        return Err(RunError::Panicked { thread: format!("reference data `{name}`"), message });
                    }
                }
            }
            let Some(refresh_us) = table.refresh_us.filter(|_| table.reading.is_none()) else { continue };
            if now.0 - table.begun.0 >= refresh_us {
                table.begun = now;
                let reader = Arc::clone(&table.reader);
                let from = reader.options.clock.wall();
                table.reading = Some(std::thread::spawn(move || reader.read(from)));
            }
        }
        Ok(())
    }

    /// Forgets versions that only rows below `t` saw.
    pub(super) fn forget_below(&self, t: EventTime) {
        self.tables.iter().for_each(|table| table.reader.plan.rows.forget_below(t));
    }
}

impl Reader {
    fn read(&self, from: EventTime) -> Result<(), RunError> {
        let Self { input, plan, options, letters } = self;
        let intake = IntakeOptions {
            arrival: TimeRule::Unbounded,
            judge_arrival: false,
            idle_margin_us: 0,
            clocks: Arc::new(Mutex::new(BrokerClocks::new(0))),
            growing: false,
            on_bad_record: on_bad_record(&input.spec),
            max_bad_ppm: input.spec.max_bad_ppm,
            dead_letters: Arc::clone(letters),
            counters: Arc::default(),
            clock: Arc::clone(&options.clock),
            resume: BTreeMap::new(),
            batch_rows: BATCH_ROWS,
        };
        let (source, keyed) = self.source()?;
        let rows = load(&plan.columns, source, &decoders(&input.spec, &input.schemas, &plan.columns)?, intake, keyed)?;
        plan.rows.put(from, rows);
        Ok(())
    }

    /// A source that ends where the data ends now; whether keys tell records apart.
    fn source(&self) -> Result<(Box<dyn Source>, bool), RunError> {
        let Self { input, options, .. } = self;
        match (&input.transport, &input.spec.transport) {
            (Transport::Kafka { input: kafka, .. }, _) => {
                let starts = kafka.resolve_start(&Start::Earliest, &BTreeMap::new())?;
                let ends = kafka.end_offsets()?;
                let source = kafka.open(1, &starts, Some(&ends), false)?.pop().ok_or_else(|| EngineError::Source {
                    input: input.spec.name.clone(),
                    kind: ErrorKind::Bug,
                    message: "no source was opened".to_owned(),
                })?;
                Ok((source, true))
            }
            (Transport::Kept(records), _) => {
                Ok((Box::new(KeptSource::new(records.clone(), Arc::clone(&options.clock))), false))
            }
            (Transport::File { files }, spec) => {
                // The pattern may match other files by now.
                let files = match spec {
                    InputTransport::File(file) => list_files(&input.spec.name, &file.path)?,
                    InputTransport::Kafka(_) => files.clone(),
                };
                let numbered = (0u32..).map(PartitionId).zip(files);
                let format = file_format(&input.spec);
                let source = FileSource::new(&input.spec.name, numbered, format, Arc::clone(&options.clock));
                Ok((Box::new(source), false))
            }
        }
    }
}
