//! Each error that the protocol knows, in each place of each answer that our own path asks for: those that pass lose and double
//! nothing, the others stop with their sentence.

use std::sync::atomic::{AtomicU64, Ordering};

use kafka_protocol::{error::ResponseError as E, messages::ApiKey};
use tidemill_certs::Secret;

use super::scripted::{Place, Scripted};
use super::*;

/// Errors that the protocol does not call retriable and that pass all the same: a broker's own trouble.
const PASSES_TOO: [E; 3] = [E::UnknownServerError, E::BrokerNotAvailable, E::OffsetMovedToTieredStorage];

/// All codes that have a name.
fn codes() -> Vec<E> {
    (-1..200).filter_map(E::try_from_code).filter(|error| !matches!(error, E::Unknown(_))).collect()
}

fn passes(error: E) -> bool {
    error.is_retriable() || PASSES_TOO.contains(&error)
}

fn settings(broker: &Scripted, security: Security) -> SourceSettings {
    SourceSettings {
        input: "clicks".into(),
        connection: KafkaConnection { brokers: vec![broker.address.clone()], security },
        topics: vec!["t".into()],
        isolation: Isolation::ReadCommitted,
        accept_create_time: true,
        queue_kib: 1_024,
        fetch: Fetch::Own,
        rack: None,
    }
}

/// Connects, starts and reads ten records; answers from then on until ten more have the error once.
fn read_past(error: E, request: ApiKey, place: Place) -> Result<Vec<(i64, String)>, EngineError> {
    let broker = Scripted::start();
    (0..10).for_each(|n| broker.append(&n.to_string()));
    let input = KafkaInput::connect(settings(&broker, Security::default()), machine_clock(), PATIENCE)?;
    let mut sources = input.open(1, &[0], None, false)?;
    let mut seen = poll_until(&mut sources, |seen| values_of(seen, 0).len() >= 10)?;
    broker.answer(request, place, error.code(), 1);
    (10..20).for_each(|n| broker.append(&n.to_string()));
    seen.extend(poll_until(&mut sources, |seen| values_of(seen, 0).len() >= 10)?);
    // The control thread's questions come later than the records.
    seen.extend(poll_until(&mut sources, |seen| seen.iter().filter(|event| **event == Seen::Topology).count() >= 2)?);
    Ok(values_of(&seen, 0))
}

/// Connects and finds where reading starts; the first `times` answers have the error.
fn start_past(
    error: E,
    request: ApiKey,
    place: Place,
    times: usize,
    security: Security,
) -> Result<Vec<i64>, EngineError> {
    let broker = Scripted::start();
    broker.append("a");
    broker.answer(request, place, error.code(), times);
    let settings = SourceSettings { accept_create_time: false, ..settings(&broker, security) };
    let input = KafkaInput::connect(settings, machine_clock(), PATIENCE)?;
    input.resolve_start(&Start::Latest, &BTreeMap::new())
}

/// Runs a case for each code, all at once: they wait for pauses, not for a core. What came is held against `expected`: `None`
/// for what passes, else a part of the sentence.
fn for_each_code<T: PartialEq + std::fmt::Debug + Send>(
    result: &T,
    expected: impl Fn(E) -> Option<String>,
    case: impl Fn(E) -> Result<T, EngineError> + Sync,
) {
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let case = &case;
        let cases: Vec<_> = codes().into_iter().map(|error| (error, scope.spawn(move || case(error)))).collect();
        assert!(cases.len() > 120);
        let judge = |(error, outcome): (E, std::thread::ScopedJoinHandle<'_, Result<T, EngineError>>)| {
            let outcome = outcome.join().unwrap();
            let holds = match (&outcome, expected(error)) {
                (Ok(came), None) => came == result,
                (Err(fault), Some(sentence)) => source_message(fault).1.contains(&sentence),
                _ => false,
            };
            (!holds).then(|| format!("{error:?}: {outcome:?}"))
        };
        cases.into_iter().filter_map(judge).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn all_twenty() -> Vec<(i64, String)> {
    (0..20).map(|n| (n, n.to_string())).collect()
}

fn refused(doing: &str, what: &str, error: E) -> String {
    match error {
        E::TopicAuthorizationFailed if what == "topic `t`" => "not allowed to use topic `t`".to_owned(),
        E::TopicAuthorizationFailed => format!("cannot {doing}: {what} was answered with `{error}`"),
        E::ClusterAuthorizationFailed => "to use the cluster".to_owned(),
        error => format!("cannot {doing}: {what} was answered with `{error}`, which no retry cures"),
    }
}

#[test]
fn of_a_partition_in_a_fetch() {
    let expected = |error| match error {
        // It was read up to an epoch: it is asked for without one, and is there.
        E::OffsetOutOfRange => None,
        error => (!passes(error)).then(|| refused("fetch records", "topic `t`", error)),
    };
    for_each_code(&all_twenty(), expected, |error| read_past(error, ApiKey::Fetch, Place::Partition));
}

#[test]
fn of_a_whole_fetch() {
    let expected = |error| (!passes(error)).then(|| refused("fetch records", "the request", error));
    for_each_code(&all_twenty(), expected, |error| read_past(error, ApiKey::Fetch, Place::Whole));
}

#[test]
fn of_a_topic_in_the_metadata_while_it_is_read() {
    let expected = |error| match error {
        E::TopicAuthorizationFailed => Some("not allowed to use topic `t`".to_owned()),
        error => (!passes(error)).then(|| refused("read the topic's partitions", "topic `t`", error)),
    };
    for_each_code(&all_twenty(), expected, |error| read_past(error, ApiKey::Metadata, Place::Topic));
}

#[test]
fn of_a_topic_in_the_metadata_at_the_start() {
    let expected = |error| (!passes(error)).then(|| refused("read the topic's partitions", "topic `t`", error));
    for_each_code(&vec![1], expected, |error| {
        start_past(error, ApiKey::Metadata, Place::Topic, 2, Security::default())
    });
}

#[test]
fn of_all_metadata_and_of_a_partition_in_it() {
    let whole = |error| match error {
        E::ClusterAuthorizationFailed => Some("the request was answered with".to_owned()),
        error => (!passes(error)).then(|| refused("read the topic's partitions", "the request", error)),
    };
    for_each_code(&vec![1], whole, |error| start_past(error, ApiKey::Metadata, Place::Whole, 2, Security::default()));
    // A partition's says why it has no leader, which passes whatever it is.
    for_each_code(&all_twenty(), |_| None, |error| read_past(error, ApiKey::Metadata, Place::Partition));
}

#[test]
fn of_a_partition_in_a_question_for_offsets() {
    let expected = |error| (!passes(error)).then(|| refused("ask for offsets", "topic `t`", error));
    let case = |error| start_past(error, ApiKey::ListOffsets, Place::Partition, 2, Security::default());
    for_each_code(&vec![1], expected, case);
}

/// Settings that we may not see are no fault: the records tell.
#[test]
fn of_a_topics_settings() {
    let case = |error| start_past(error, ApiKey::DescribeConfigs, Place::Topic, 9, Security::default());
    for_each_code(&vec![1], |_| None, case);
}

#[test]
fn of_the_first_words_of_a_connection() {
    // An older broker answers the first question with an error and the second, older one, with what it knows.
    let case = |error| start_past(error, ApiKey::ApiVersions, Place::Whole, 1, Security::default());
    for_each_code(&vec![1], |_| None, case);
    let case = |error| start_past(error, ApiKey::ApiVersions, Place::Whole, 2, Security::default());
    for_each_code(&vec![1], |error| (!passes(error)).then(|| format!("{error}")), case);
}

#[test]
fn of_a_login() {
    let security = || {
        let password = Secret::new(b"secret".to_vec());
        Security { tls: None, sasl: Some(Sasl::Plain { username: "alice".into(), password }) }
    };
    let handshake = |error| match error {
        E::IllegalSaslState => Some("this listener does not take SASL".to_owned()),
        E::UnsupportedSaslMechanism => Some("it does not offer `PLAIN`, only PLAIN".to_owned()),
        error => (!passes(error)).then(|| format!("{error}")),
    };
    for_each_code(&vec![1], handshake, |error| start_past(error, ApiKey::SaslHandshake, Place::Whole, 1, security()));
    let authenticate = |error| match error {
        E::SaslAuthenticationFailed => Some("wrong user or password".to_owned()),
        error => (!passes(error)).then(|| format!("{error}")),
    };
    let case = |error| start_past(error, ApiKey::SaslAuthenticate, Place::Whole, 1, security());
    for_each_code(&vec![1], authenticate, case);
}

#[test]
fn messages_of_old_formats_are_read_between_others() {
    let broker = Scripted::start();
    broker.append_old("0");
    broker.append_old("1");
    broker.append("2");
    let input = KafkaInput::connect(settings(&broker, Security::default()), machine_clock(), PATIENCE).unwrap();
    let mut sources = input.open(1, &[1], Some(&[3]), false).unwrap();
    let seen = poll_until(&mut sources, |seen| seen.contains(&Seen::Finished(0))).unwrap();
    assert_eq!(values_of(&seen, 0), [(1, "1".to_owned()), (2, "2".to_owned())]);
}

/// An old message says how many records it holds only when it is unpacked: it is handed over, where batches are counted.
#[test]
fn messages_of_old_formats_are_counted_one_by_one() {
    let broker = Scripted::start();
    broker.append_old("0");
    broker.append("1");
    broker.append_old("2");
    let input = KafkaInput::connect(settings(&broker, Security::default()), machine_clock(), PATIENCE).unwrap();
    let all = ReadStretch { partition: PartitionId(0), from: 0, to: 3 };
    let counted = Arc::<AtomicU64>::default();
    let mut sources = [input.open_stretches(&[all], false, Some(Arc::clone(&counted))).unwrap()];
    let seen = poll_until(&mut sources, |seen| seen.contains(&Seen::Finished(0))).unwrap();
    assert_eq!(values_of(&seen, 0), [(0, "0".to_owned()), (2, "2".to_owned())]);
    assert_eq!(counted.load(Ordering::Relaxed), 1);
}
