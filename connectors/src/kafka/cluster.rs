//! Questions to the cluster: which topics and partitions there are, who leads them, where their logs begin and end.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use kafka_protocol::{error::ResponseError, messages::metadata_response::MetadataResponsePartition};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ConfigResourceResult, ResourceSpecifier},
    bindings::rd_kafka_resp_err_t as Code,
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode,
    topic_partition_list::TopicPartitionListElem,
};
use tidemill_engine::Clock;

use super::{
    client::{Brokers, Reporter},
    config::{Isolation, KafkaConnection},
    fault::{Cause, Fault},
    input::Own,
    partition::Partition,
    range::deadline,
    wire::{Address, Client, OffsetQuestion, speaks_tls},
};

/// How long one question may take after the first contact.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait for a topic's settings, without which things go on.
const SETTINGS_WITHIN: Duration = Duration::from_secs(3);
/// How long a listener that told nothing is looked at.
const LISTENER_WITHIN: Duration = Duration::from_secs(1);
/// The first try of the first contact; logs are read between tries, and each takes twice as long as the one before: a connection
/// through a slow network takes its time, for all that is said before the first question.
const CONTACT_TRY: Duration = Duration::from_millis(500);
/// How long after a question that was refused it is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A topic created a moment ago may not be known to every broker yet.
const UNKNOWN_TOPIC_GRACE: Duration = Duration::from_secs(1);

/// What a broker says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TopicAnswer {
    /// Its partitions in order: number and leader (-1: none at the moment).
    Partitions(Vec<(i32, i32)>),
    /// There is none of that name.
    Unknown,
    /// There is one, but no leader is elected yet.
    NotYet,
}

/// Asks and does not read. Over our own connections, or over librdkafka where those do not reach.
pub(super) struct Cluster {
    connection: KafkaConnection,
    brokers: Arc<Brokers>,
    asker: Asker,
}

enum Asker {
    Own(Mutex<Client>),
    Librdkafka(BaseConsumer<Reporter>),
}

impl Cluster {
    /// A client of our own; ends of logs are the last stable offsets when `isolation` is read_committed, else high
    /// watermarks.
    pub(super) fn own(shared: &Own, isolation: Isolation) -> Self {
        let Own { connection, protection, clock, brokers, topology } = shared;
        let bootstrap = connection.brokers.iter().map(|broker| Address::parse(broker)).collect();
        let client = Client::new(
            bootstrap,
            protection.clone(),
            isolation,
            Arc::clone(clock),
            Arc::clone(brokers),
            Arc::clone(topology),
        );
        let asker = Asker::Own(Mutex::new(client));
        Self { connection: connection.clone(), brokers: Arc::clone(brokers), asker }
    }

    /// The same, on librdkafka.
    pub(super) fn librdkafka(
        connection: &KafkaConnection,
        isolation: Isolation,
        brokers: Arc<Brokers>,
    ) -> Result<Self, Fault> {
        let mut config = connection.client_config();
        config.set("isolation.level", isolation.as_str());
        let consumer: BaseConsumer<_> = config.create_with_context(Reporter(brokers.clone())).map_err(Fault::Client)?;
        brokers.authenticate(consumer.client().native_ptr())?;
        Ok(Self { connection: connection.clone(), brokers, asker: Asker::Librdkafka(consumer) })
    }

    /// The cluster's own name; empty when no broker answers.
    pub(super) fn id(&self) -> String {
        match &self.asker {
            Asker::Own(client) => {
                let answer = lock(client).metadata(Some(&[]), ANSWER_WITHIN).ok();
                answer.and_then(|answer| answer.cluster_id).map(|id| id.to_string()).unwrap_or_default()
            }
            Asker::Librdkafka(consumer) => consumer.client().fetch_cluster_id(ANSWER_WITHIN).unwrap_or_default(),
        }
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
        let mut within = CONTACT_TRY.min(wait);
        let mut refused = None;
        loop {
            let answers = self.topics(topics, within);
            within = (within * 2).min(wait);
            self.serve_callbacks();
            let mut leaderless = None;
            match answers {
                Ok(answers) => {
                    let mut found = Vec::with_capacity(topics.len());
                    for (topic, answer) in topics.iter().zip(answers) {
                        match answer {
                            TopicAnswer::Partitions(partitions) => found.push(partitions),
                            TopicAnswer::NotYet => leaderless = Some(topic),
                            TopicAnswer::Unknown => {
                                let until = *missing_until.get_or_insert_with(|| deadline(clock, UNKNOWN_TOPIC_GRACE));
                                if clock.monotonic() >= until {
                                    return Err(self.unknown_topic(topic));
                                }
                            }
                        }
                    }
                    if found.len() == topics.len() {
                        self.brokers.contacted();
                        return Ok(found);
                    }
                }
                Err(fault @ Fault::Request { cause: Cause::Answered(_), .. }) => refused = Some(fault),
                Err(Fault::Request { .. }) => refused = None,
                Err(fault) => return Err(fault),
            }
            if let Some(refusal) = self.brokers.refusal() {
                return Err(refusal);
            }
            if clock.monotonic() >= end {
                if let Some(topic) = leaderless {
                    return Err(Fault::Leaderless { topic: topic.clone() });
                }
                if let Some(fault) = refused {
                    return Err(fault);
                }
                let answers = self.brokers.answers(&self.connection.brokers);
                let answers = answers.into_iter().map(|(broker, cause)| self.listener(broker, cause)).collect();
                return Err(Fault::Unreachable { answers, waited: wait });
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A closed or silent connection tells little: what the job does not speak is tried, whether the listener speaks it.
    fn listener(&self, broker: String, cause: Cause) -> (String, Cause) {
        let security = &self.connection.security;
        let cause = match cause {
            Cause::WrongProtocol | Cause::NoAnswer | Cause::Disconnected | Cause::Unnamed(_)
                if security.tls.is_none() && speaks_tls(&broker, LISTENER_WITHIN) =>
            {
                Cause::TlsListener
            }
            Cause::Disconnected if security.sasl.is_none() => Cause::SaslWanted,
            cause => cause,
        };
        (broker, cause)
    }

    /// Asks a broker about topics; answers in their order.
    pub(super) fn topics(&self, topics: &[String], within: Duration) -> Result<Vec<TopicAnswer>, Fault> {
        match &self.asker {
            Asker::Own(client) => own_topics(&mut lock(client), topics, within),
            Asker::Librdkafka(consumer) => {
                topics.iter().map(|topic| librdkafka_topic(consumer, topic, within)).collect()
            }
        }
    }

    /// The names of all topics that may be seen.
    pub(super) fn names(&self) -> Result<Vec<String>, Fault> {
        Ok(match &self.asker {
            Asker::Own(client) => {
                let all = lock(client).metadata(None, ANSWER_WITHIN)?.topics;
                all.into_iter().filter_map(|topic| Some(topic.name?.0.to_string())).collect()
            }
            Asker::Librdkafka(consumer) => {
                let all = consumer.fetch_metadata(None, ANSWER_WITHIN);
                let all = all.map_err(|error| Fault::request("list the topics", "the topics", &error))?;
                all.topics().iter().map(|topic| topic.name().to_owned()).collect()
            }
        })
    }

    fn unknown_topic(&self, topic: &str) -> Fault {
        let names = self.names().unwrap_or_default();
        let near = nearest(topic, names.into_iter().filter(|name| !name.starts_with("__")));
        Fault::UnknownTopic { topic: topic.to_owned(), near, bootstrap: self.connection.bootstrap() }
    }

    /// Asks the leaders for offsets, one request a leader; answers in the order of the questions, `None` where there is no
    /// record of that time or later.
    pub(super) fn offsets(
        &self,
        questions: &[(&str, i32, OffsetQuestion)],
        within: Duration,
    ) -> Result<Vec<Option<i64>>, Fault> {
        match &self.asker {
            Asker::Own(client) => lock(client).offsets(questions, within),
            Asker::Librdkafka(consumer) => librdkafka_offsets(consumer, questions, within),
        }
    }

    /// Like [`Cluster::offsets`] for those who cannot go on without: asked again while that may help, for [`ANSWER_WITHIN`].
    pub(super) fn offsets_surely(
        &self,
        questions: &[(&str, i32, OffsetQuestion)],
        clock: &dyn Clock,
    ) -> Result<Vec<Option<i64>>, Fault> {
        let until = deadline(clock, ANSWER_WITHIN);
        loop {
            match self.offsets(questions, ANSWER_WITHIN) {
                Err(Fault::Request { cause, .. }) if !cause.is_final() && clock.monotonic() < until => {
                    thread::sleep(AGAIN_AFTER);
                    // Another leader, mostly; what is wrong with this answer the next one will say.
                    let topics: BTreeSet<&str> = questions.iter().map(|(topic, ..)| *topic).collect();
                    let topics: Vec<String> = topics.into_iter().map(str::to_owned).collect();
                    let _ = self.topics(&topics, CONTACT_TRY);
                }
                answered => return answered,
            }
        }
    }

    /// Like [`Cluster::offsets_surely`] for a question that every partition answers with a number: its beginning or its end.
    pub(super) fn bounds(
        &self,
        partitions: &[Arc<Partition>],
        question: OffsetQuestion,
        clock: &dyn Clock,
    ) -> Result<Vec<i64>, Fault> {
        let questions: Vec<_> = partitions.iter().map(|p| (&*p.topic, p.number, question)).collect();
        self.offsets_surely(&questions, clock)?.into_iter().map(number).collect()
    }

    /// A setting of each topic; `None` where we may not see it or no answer comes.
    pub(super) fn settings(
        &self,
        topics: &[String],
        name: &'static str,
        within: Duration,
    ) -> Result<Vec<Option<String>>, Fault> {
        let within = within.min(SETTINGS_WITHIN);
        match &self.asker {
            Asker::Own(client) => {
                let unseen = || vec![None; topics.len()];
                Ok(lock(client).settings(topics, name, within).unwrap_or_else(|_| unseen()))
            }
            Asker::Librdkafka(_) => self.librdkafka_settings(topics, name, within),
        }
    }

    fn librdkafka_settings(
        &self,
        topics: &[String],
        name: &str,
        within: Duration,
    ) -> Result<Vec<Option<String>>, Fault> {
        let config = self.connection.client_config();
        let admin: AdminClient<Reporter> =
            config.create_with_context(Reporter(self.brokers.clone())).map_err(Fault::Client)?;
        self.brokers.authenticate(admin.inner().native_ptr())?;
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(within));
        let Ok(answers) = wait_for(admin.describe_configs(&resources, &options)) else {
            return Ok(vec![None; topics.len()]);
        };
        let value = |answer: &ConfigResourceResult| answer.as_ref().ok()?.get(name)?.value.clone();
        Ok(answers.iter().map(value).collect())
    }

    /// Lets librdkafka's log and error callbacks run. Without a wait, a poll would return after the first of them.
    pub(super) fn serve_callbacks(&self) {
        if let Asker::Librdkafka(consumer) = &self.asker {
            while consumer.poll(Duration::from_millis(2)).is_some() {}
        }
    }
}

fn lock(client: &Mutex<Client>) -> MutexGuard<'_, Client> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

const READ_PARTITIONS: &str = "read the topic's partitions";
const ASK_OFFSETS: &str = "ask for offsets";

fn own_topics(client: &mut Client, topics: &[String], within: Duration) -> Result<Vec<TopicAnswer>, Fault> {
    let metadata = client.metadata(Some(topics), within)?;
    let answer_of = |name: &String| {
        let answer = metadata.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|n| *n.0 == **name));
        let Some(answer) = answer else { return Ok(TopicAnswer::Unknown) };
        match ResponseError::try_from_code(answer.error_code) {
            None => {
                let of = |p: &MetadataResponsePartition| (p.partition_index, p.leader_id.0);
                let mut partitions: Vec<_> = answer.partitions.iter().map(of).collect();
                partitions.sort_unstable();
                Ok(if partitions.is_empty() { TopicAnswer::NotYet } else { TopicAnswer::Partitions(partitions) })
            }
            Some(ResponseError::UnknownTopicOrPartition) => Ok(TopicAnswer::Unknown),
            Some(ResponseError::LeaderNotAvailable) => Ok(TopicAnswer::NotYet),
            Some(error) => Err(Fault::request_refused(READ_PARTITIONS, name, error)),
        }
    };
    topics.iter().map(answer_of).collect()
}

fn librdkafka_topic(consumer: &BaseConsumer<Reporter>, topic: &str, within: Duration) -> Result<TopicAnswer, Fault> {
    let named = || format!("topic `{topic}`");
    let metadata = consumer
        .fetch_metadata(Some(topic), within)
        .map_err(|error| Fault::request(READ_PARTITIONS, &named(), &error))?;
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
        Some(Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => Err(Fault::not_allowed(named())),
        Some(Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) => Ok(TopicAnswer::NotYet),
        Some(code) => {
            let cause = Cause::Unnamed(RDKafkaErrorCode::from(code).to_string());
            Err(Fault::Request { doing: READ_PARTITIONS, cause })
        }
    }
}

fn librdkafka_offsets(
    consumer: &BaseConsumer<Reporter>,
    questions: &[(&str, i32, OffsetQuestion)],
    within: Duration,
) -> Result<Vec<Option<i64>>, Fault> {
    let mut list = TopicPartitionList::new();
    for &(topic, number, question) in questions {
        let question = match question {
            OffsetQuestion::Earliest => Offset::Beginning,
            OffsetQuestion::End => Offset::End,
            OffsetQuestion::At(ms) => Offset::Offset(ms),
        };
        list.add_partition_offset(topic, number, question).map_err(Fault::Client)?;
    }
    if list.count() == 0 {
        return Ok(Vec::new());
    }
    let answers =
        consumer.offsets_for_times(list, within).map_err(|error| Fault::request(ASK_OFFSETS, "the topic", &error))?;
    let offset = |answer: &TopicPartitionListElem<'_>| match answer.error() {
        Ok(()) => Ok(match answer.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }),
        Err(error) => Err(Fault::request(ASK_OFFSETS, &format!("topic `{}`", answer.topic()), &error)),
    };
    answers.elements().iter().map(offset).collect()
}

/// An answer that must be a number.
pub(super) fn number(answer: Option<i64>) -> Result<i64, Fault> {
    answer.ok_or(Fault::Request { doing: ASK_OFFSETS, cause: Cause::Answered(ResponseError::OffsetNotAvailable) })
}

/// At most five names, the nearest to `wanted` first.
fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.map(|name| (strsim::damerau_levenshtein(wanted, &name), name)).collect();
    names.sort();
    names.into_iter().take(5).map(|(_, name)| name).collect()
}

/// Blocks on a future that another thread completes.
pub(super) fn wait_for<F: Future>(future: F) -> F::Output {
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
