//! The harness itself, against the real broker.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message, Timestamp};

use super::*;

#[test]
fn the_broker_stamps_records_and_gives_them_back() {
    let kafka = shared();
    kafka.create_topic("stamped", 2, &[]).unwrap();
    assert_eq!(kafka.describe_topic("stamped").unwrap()["message.timestamp.type"].as_deref(), Some("LogAppendTime"));

    let mut first = Record::new(1, "one").with_key("k");
    first.headers = vec![("h".into(), b"v".to_vec())];
    first.timestamp_ms = Some(1_000);
    kafka.produce("stamped", [first, Record { partition: 0, ..Record::default() }]).unwrap();

    let [tombstone, one] = &kafka.read("stamped").unwrap()[..] else { panic!("two records") };
    assert_eq!((tombstone.partition(), tombstone.payload()), (0, None));
    assert_eq!((one.partition(), one.key(), one.payload()), (1, Some(&b"k"[..]), Some(&b"one"[..])));
    assert_eq!(one.headers().unwrap().get(0).key, "h");
    let Timestamp::LogAppendTime(stamp) = one.timestamp() else { panic!("{:?}", one.timestamp()) };
    assert!(stamp > 1_600_000_000_000, "the broker's time, not the producer's: {stamp}");
}

#[test]
fn a_create_time_topic_keeps_the_producers_time() {
    let kafka = shared();
    kafka.create_topic("created", 1, &[("message.timestamp.type", "CreateTime")]).unwrap();
    kafka.produce("created", [Record { timestamp_ms: Some(1_000), ..Record::new(0, "a") }]).unwrap();
    assert_eq!(kafka.read("created").unwrap()[0].timestamp(), Timestamp::CreateTime(1_000));

    kafka.configure_topic("created", &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    kafka.grow_topic("created", 2).unwrap();
    kafka.produce("created", [Record { timestamp_ms: Some(1_000), ..Record::new(1, "b") }]).unwrap();
    let stamps: Vec<_> = kafka.read("created").unwrap().iter().map(Message::timestamp).collect();
    assert!(matches!(stamps[..], [Timestamp::CreateTime(1_000), Timestamp::LogAppendTime(_)]), "{stamps:?}");
}

#[test]
fn records_survive_a_killed_broker() {
    let kafka = Broker::start(BrokerOptions::default()).unwrap();
    kafka.create_topic("kept", 1, &[]).unwrap();
    kafka.produce("kept", (0..1_000).map(|i| Record::new(0, i.to_string()))).unwrap();
    kafka.pause().unwrap();
    kafka.resume().unwrap();
    kafka.kill().unwrap();
    kafka.restart().unwrap();
    assert_eq!(kafka.read("kept").unwrap().len(), 1_000);
    let dir = kafka.server().directory().to_path_buf();
    drop(kafka);
    assert!(!dir.exists());
}

#[test]
fn a_refused_record_and_an_unknown_topic_are_errors() {
    let kafka = shared();
    kafka.create_topic("small", 1, &[("max.message.bytes", "100")]).unwrap();
    let refused = kafka.produce("small", [Record::new(0, vec![b'x'; 1_000])]).unwrap_err();
    assert!(format!("{refused:#}").contains("`small` refused a record"), "{refused:#}");
    assert!(kafka.read("nowhere").is_err());
}

#[test]
fn every_listener_takes_its_clients() {
    let kafka = shared();
    let Certificates { ca, certificate, key, .. } = kafka.certificates();
    let path = |path: std::path::PathBuf| path.display().to_string();
    let tls = [("ssl.ca.location", path(ca))];
    let mtls = [("ssl.certificate.location", path(certificate)), ("ssl.key.location", path(key))];
    let user = |mechanism: &str| {
        [
            ("sasl.mechanism", mechanism.to_owned()),
            ("sasl.username", "alice".to_owned()),
            ("sasl.password", PASSWORD.to_owned()),
        ]
    };
    let mut cases = vec![
        (Listener::Plaintext, "plaintext", vec![]),
        (Listener::Tls, "ssl", tls.to_vec()),
        (Listener::Mtls, "ssl", [&tls[..], &mtls[..]].concat()),
    ];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        cases.push((Listener::SaslPlaintext, "sasl_plaintext", user(mechanism).to_vec()));
        cases.push((Listener::SaslTls, "sasl_ssl", [&tls[..], &user(mechanism)[..]].concat()));
    }
    for (listener, protocol, settings) in cases {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka.address(listener)).set("security.protocol", protocol);
        for (name, value) in &settings {
            config.set(*name, value);
        }
        let client: BaseConsumer = config.create().unwrap();
        let answer = client.fetch_metadata(None, std::time::Duration::from_secs(20));
        assert!(answer.is_ok(), "{listener:?} {settings:?}: {answer:?}");
    }
}

#[test]
fn a_right_is_given_to_one_user() {
    let kafka = shared();
    kafka.create_topic("for-bob", 1, &[]).unwrap();
    kafka.allow("bob", Operation::Describe, Resource::Topic("for-bob")).unwrap();
}
