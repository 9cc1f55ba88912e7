//! Questions to the cluster: which topics and partitions there are, who leads them, where their logs begin and end.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ConfigResourceResult, ResourceSpecifier},
    bindings::rd_kafka_resp_err_t as Code,
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode,
};
use tidemill_engine::Clock;

use super::{
    client::{Brokers, Reporter},
    config::{Isolation, KafkaConnection},
    fault::{Cause, Fault},
    partition::Partition,
    range::deadline,
};

/// How long one question may take after the first contact.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait for a topic's settings, without which things go on.
const SETTINGS_WITHIN: Duration = Duration::from_secs(3);
/// One try of the first contact; logs are read between tries.
const CONTACT_TRY: Duration = Duration::from_millis(500);
/// A topic created a moment ago may not be known to every broker yet.
const UNKNOWN_TOPIC_GRACE: Duration = Duration::from_secs(1);

/// What a broker says of a topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TopicAnswer {
    /// Its partitions in order: number and leader (-1: none at the moment).
    Partitions(Vec<(i32, i32)>),
    /// There is none of that name.
    Unknown,
    /// There is one, but no leader is elected yet.
    NotYet,
}

/// A client that asks and does not read.
pub(super) struct Cluster {
    connection: KafkaConnection,
    consumer: BaseConsumer<Reporter>,
    brokers: Arc<Brokers>,
}

impl Cluster {
    /// A client; ends of logs are the last stable offsets when `isolation` is read_committed, else high watermarks.
    pub(super) fn new(
        connection: &KafkaConnection,
        isolation: Isolation,
        brokers: Arc<Brokers>,
    ) -> Result<Self, Fault> {
        let mut config = connection.client_config();
        config.set("isolation.level", isolation.as_str());
        let consumer = config.create_with_context(Reporter(brokers.clone())).map_err(Fault::Client)?;
        Ok(Self { connection: connection.clone(), consumer, brokers })
    }

    pub(super) fn connection(&self) -> &KafkaConnection {
        &self.connection
    }

    /// The first contact: the partitions of each topic, once all of them are known.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] after `wait`, at once what no waiting cures, and [`Fault::UnknownTopic`].
    pub(super) fn contact(
        &self,
        topics: &[String],
        clock: &dyn Clock,
        wait: Duration,
    ) -> Result<Vec<Vec<(i32, i32)>>, Fault> {
        let end = deadline(clock, wait);
        let mut missing_until = None;
        let mut leaderless = false;
        let mut found = Vec::with_capacity(topics.len());
        while let Some(topic) = topics.get(found.len()) {
            let answer = self.topic(topic, CONTACT_TRY.min(wait));
            self.serve_callbacks();
            match answer {
                Ok(TopicAnswer::Partitions(partitions)) => {
                    found.push(partitions);
                    continue;
                }
                Ok(TopicAnswer::Unknown) => {
                    let until = *missing_until.get_or_insert_with(|| deadline(clock, UNKNOWN_TOPIC_GRACE));
                    if clock.monotonic() >= until {
                        return Err(self.unknown_topic(topic));
                    }
                }
                Ok(TopicAnswer::NotYet) => leaderless = true,
                Err(Fault::Request { .. }) => leaderless = false,
                Err(fault) => return Err(fault),
            }
            if let Some(refusal) = self.brokers.refusal() {
                return Err(refusal);
            }
            if clock.monotonic() >= end {
                if leaderless {
                    return Err(Fault::Leaderless { topic: topic.clone() });
                }
                let answers = self.brokers.answers(&self.connection.brokers);
                return Err(Fault::Unreachable { answers, waited: wait });
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.brokers.contacted();
        Ok(found)
    }

    /// Asks a broker about one topic.
    pub(super) fn topic(&self, topic: &str, within: Duration) -> Result<TopicAnswer, Fault> {
        let named = || format!("topic `{topic}`");
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), within)
            .map_err(|error| Fault::request("read the topic's partitions", &named(), &error))?;
        let Some(answer) = metadata.topics().iter().find(|answer| answer.name() == topic) else {
            return Ok(TopicAnswer::Unknown);
        };
        match answer.error() {
            None => {
                let mut partitions: Vec<_> = answer.partitions().iter().map(|p| (p.id(), p.leader())).collect();
                partitions.sort_unstable();
                Ok(if partitions.is_empty() { TopicAnswer::NotYet } else { TopicAnswer::Partitions(partitions) })
            }
            Some(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(TopicAnswer::Unknown),
            Some(Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => Err(Fault::NotAllowed { what: named() }),
            Some(Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) => Ok(TopicAnswer::NotYet),
            Some(code) => Err(Fault::Request { doing: "read the topic's partitions", code: code.into() }),
        }
    }

    fn unknown_topic(&self, topic: &str) -> Fault {
        let all = self.consumer.fetch_metadata(None, ANSWER_WITHIN);
        let names = all.iter().flat_map(|all| all.topics()).map(|topic| topic.name().to_owned());
        let near = nearest(topic, names.filter(|name| !name.starts_with("__")));
        Fault::UnknownTopic { topic: topic.to_owned(), near, bootstrap: self.connection.bootstrap() }
    }

    /// Asks the leaders for offsets: [`Offset::Beginning`], [`Offset::End`], or [`Offset::Offset`] with a time in
    /// milliseconds, for its first record then or later ([`Offset::End`] comes back where there is none). One request a
    /// leader; answers in the order of the questions.
    pub(super) fn offsets<'t>(
        &self,
        questions: impl IntoIterator<Item = (&'t str, i32, Offset)>,
        within: Duration,
    ) -> Result<Vec<Offset>, Fault> {
        let mut list = TopicPartitionList::new();
        for (topic, number, question) in questions {
            list.add_partition_offset(topic, number, question).map_err(Fault::Client)?;
        }
        if list.count() == 0 {
            return Ok(Vec::new());
        }
        let doing = "ask for offsets";
        let list = self
            .consumer
            .offsets_for_times(list, within)
            .map_err(|error| Fault::request(doing, "the topic", &error))?;
        list.elements()
            .iter()
            .map(|answer| match answer.error() {
                Ok(()) => Ok(answer.offset()),
                Err(error) => Err(Fault::request(doing, &format!("topic `{}`", answer.topic()), &error)),
            })
            .collect()
    }

    /// Like [`Cluster::offsets`] for a question that every partition answers with a number: its beginning or its end.
    pub(super) fn bounds(&self, partitions: &[Arc<Partition>], question: Offset) -> Result<Vec<i64>, Fault> {
        let questions = partitions.iter().map(|p| (&*p.topic, p.number, question));
        self.offsets(questions, ANSWER_WITHIN)?.into_iter().map(number).collect()
    }

    /// A setting of each topic; `None` where we may not see it or no answer comes.
    pub(super) fn settings(
        &self,
        topics: &[String],
        name: &str,
        within: Duration,
    ) -> Result<Vec<Option<String>>, Fault> {
        let config = self.connection.client_config();
        let admin: AdminClient<Reporter> =
            config.create_with_context(Reporter(self.brokers.clone())).map_err(Fault::Client)?;
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(within.min(SETTINGS_WITHIN)));
        let Ok(answers) = wait_for(admin.describe_configs(&resources, &options)) else {
            return Ok(vec![None; topics.len()]);
        };
        let value = |answer: &ConfigResourceResult| answer.as_ref().ok()?.get(name)?.value.clone();
        Ok(answers.iter().map(value).collect())
    }

    /// Lets librdkafka's log and error callbacks run. Without a wait, a poll would return after the first of them.
    pub(super) fn serve_callbacks(&self) {
        while self.consumer.poll(Duration::from_millis(2)).is_some() {}
    }
}

/// An answer that must be a number.
pub(super) fn number(answer: Offset) -> Result<i64, Fault> {
    match answer {
        Offset::Offset(offset) => Ok(offset),
        _ => Err(Fault::Request { doing: "ask for offsets", code: RDKafkaErrorCode::OffsetNotAvailable }),
    }
}

/// At most five names, the nearest to `wanted` first.
fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.map(|name| (strsim::damerau_levenshtein(wanted, &name), name)).collect();
    names.sort();
    names.into_iter().take(5).map(|(_, name)| name).collect()
}

/// Blocks on a future that another thread completes.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Why a request failed, for the one warning about a broker that went away.
pub(super) fn cause_of(fault: &Fault) -> Cause {
    match fault {
        Fault::Request { code: RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut, .. } => {
            Cause::NoAnswer
        }
        other => Cause::Unnamed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_first() {
        let names = ["orders", "clicks", "clicks-eu", "a", "b", "c", "d"].map(String::from).into_iter();
        assert_eq!(nearest("cliks", names)[..2], ["clicks", "c"]);
    }

    #[test]
    fn a_future_completed_elsewhere_is_awaited() {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Waker>(1);
        let worker = thread::spawn(move || receiver.recv().unwrap().wake());
        let mut polls = 0;
        let value = wait_for(std::future::poll_fn(|context| {
            polls += 1;
            if polls > 1 {
                return Poll::Ready(7);
            }
            sender.send(context.waker().clone()).unwrap();
            Poll::Pending
        }));
        worker.join().unwrap();
        assert_eq!(value, 7);
    }
}
