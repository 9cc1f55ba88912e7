//! The epochs topic: where a job keeps its epochs on a cluster that takes its rows but does not have its inputs, and so not its
//! groups' offsets. One partition, compacted; the last record is the last epoch.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::RDKafkaErrorCode,
};
use tidemill_engine::{Clock, Result, source::SourceEvent};

use super::{
    client::{Brokers, Reporter},
    cluster::{Cluster, TopicAnswer, wait_for},
    config::{Fetch, Isolation, KafkaConnection, SourceSettings},
    fault::{Cause, Fault},
    input::KafkaInput,
    range::deadline,
};

/// How long reading the last record, or making the topic, may take.
const WITHIN: Duration = Duration::from_secs(10);
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(50);
/// Offsets looked at first, from the end; control records take some of them.
const FROM_END: i64 = 16;

/// The last record of the topic, `None` when it holds none; the topic is made where it is missing. Every transaction of the
/// job has to be over: see [`super::Transaction::begin`].
///
/// # Errors
/// [`tidemill_engine::EngineError`]: no answer, no right to read or to make it.
pub fn last_epoch(
    output: &str,
    connection: &KafkaConnection,
    topic: &str,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Vec<u8>>> {
    let topics = [topic.to_owned()];
    let exists = || -> Result<bool, Fault> {
        let brokers = Brokers::new(format!("output `{output}`"), connection);
        let cluster = Cluster::librdkafka(connection, Isolation::ReadCommitted, brokers.clone())?;
        let exists = cluster.topics(&topics, WITHIN)? != [TopicAnswer::Unknown];
        if !exists {
            create(connection, topic, &brokers)?;
        }
        Ok(exists)
    };
    if !exists().map_err(|fault| fault.of_output(output))? {
        return Ok(None);
    }
    let settings = SourceSettings {
        input: topic.to_owned(),
        connection: connection.clone(),
        topics: topics.to_vec(),
        isolation: Isolation::ReadCommitted,
        accept_create_time: true,
        queue_kib: 1_024,
        fetch: Fetch::Auto,
        rack: None,
    };
    let input = KafkaInput::connect(settings, Arc::clone(clock), WITHIN)?;
    let Some(&(earliest, end)) = input.bounds()?.first() else { return Ok(None) };
    let mut back = FROM_END;
    loop {
        let from = (end - back).max(earliest);
        let last = last_value(&input, from, end, &**clock)?;
        if last.is_some() || from == earliest {
            return Ok(last);
        }
        back *= 8;
    }
}

/// The value of the last record of the only partition from `from` to before `end`.
fn last_value(input: &KafkaInput, from: i64, end: i64, clock: &dyn Clock) -> Result<Option<Vec<u8>>> {
    let until = deadline(clock, WITHIN);
    let mut last = None;
    for mut source in input.open(1, &[from], Some(&[end]), false)? {
        while !source.finished() {
            if clock.monotonic() > until {
                let cause = Cause::NoAnswer;
                return Err(Fault::Request { doing: "read the job's epochs", cause }.of_input(input.name()));
            }
            source.poll(POLL, &mut |event| {
                if let SourceEvent::Records { records, .. } = event {
                    last = records.last().and_then(|record| record.value).map(<[u8]>::to_vec).or(last.take());
                }
                Ok(())
            })?;
        }
    }
    Ok(last)
}

fn create(connection: &KafkaConnection, topic: &str, brokers: &Arc<Brokers>) -> Result<(), Fault> {
    let admin: AdminClient<Reporter> =
        connection.client_config().create_with_context(Reporter(brokers.clone())).map_err(Fault::Client)?;
    brokers.authenticate(admin.inner().native_ptr())?;
    // The replication that the cluster gives by default.
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
    let new = new.set("segment.bytes", "1048576").set("min.cleanable.dirty.ratio", "0.1");
    let options = AdminOptions::new().request_timeout(Some(WITHIN)).operation_timeout(Some(WITHIN));
    let refused = |code: RDKafkaErrorCode| Fault::EpochsTopic {
        topic: topic.to_owned(),
        bootstrap: connection.bootstrap(),
        code,
    };
    let answers = wait_for(admin.create_topics([&new], &options));
    let answers = answers.map_err(|error| refused(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)))?;
    match answers.into_iter().next() {
        Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => Err(refused(code)),
        _ => Ok(()),
    }
}
