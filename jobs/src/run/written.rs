//! Reads back what a job has written to a topic: for `verify`, and for its dead letters.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tidemill_connectors::kafka::{Fetch, Isolation, KafkaConnection, KafkaInput, SourceSettings, Start};
use tidemill_engine::source::{Record, SourceEvent};

use super::{
    RunOptions,
    error::RunError,
    security::{self, Owner, Secrets},
};
use crate::spec::KafkaOutput;

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(50);
/// What is fetched ahead.
const QUEUE_KIB: usize = 16 * 1_024;

/// Hands over every record that is committed in the topic of an output, up to its end as it stands now; with headers when asked
/// for.
pub(crate) fn each_record_of(
    output: &str,
    kafka: &KafkaOutput,
    with_headers: bool,
    secrets: &Secrets,
    options: &RunOptions,
    each: &mut dyn FnMut(&Record<'_>),
) -> Result<(), RunError> {
    let security = security::resolve(Owner::Output(output), &kafka.brokers, &kafka.security, secrets, options)?;
    let settings = SourceSettings {
        input: output.to_owned(),
        connection: KafkaConnection { brokers: kafka.brokers.clone(), security },
        topics: vec![kafka.topic.clone()],
        isolation: Isolation::ReadCommitted,
        accept_create_time: true,
        queue_kib: QUEUE_KIB,
        fetch: Fetch::Auto,
        rack: None,
    };
    let input = KafkaInput::connect(settings, Arc::clone(&options.clock), options.wait)?;
    let starts = input.resolve_start(&Start::Earliest, &BTreeMap::new())?;
    let ends = input.end_offsets()?;
    for source in &mut input.open(1, &starts, Some(&ends), with_headers)? {
        while !source.finished() {
            source.poll(POLL, &mut |event| {
                if let SourceEvent::Records { records, .. } = event {
                    records.iter().for_each(&mut *each);
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}
