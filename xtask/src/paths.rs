//! `cargo xtask paths`: the two ways to read a topic, our own fetch requests and librdkafka, hand over the same records, byte by
//! byte.
//!
//! Each [`CHECKS`] entry makes a topic of its own on the broker it is given, so that they run beside each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use stand_in::Oidc;
use tidemill_certs::{SecretRef, SecretStore};
use tidemill_connectors::kafka::{
    ClientProof, Fetch, Isolation, KafkaConnection, KafkaInput, OidcSettings, SaslSettings, ScramHash, Security,
    SecuritySettings, SourceSettings, TlsSettings, TokenSettings,
};
use tidemill_engine::source::{Source, SourceEvent, TimestampKind};

use crate::clock::machine_clock;
use crate::kafka::{Broker, BrokerOptions, Certificates, Listener, PASSWORD, Record, Version, unsigned_token};

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to compare.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The releases of Kafka to read from; none: all of them.
    #[arg(long = "kafka", value_name = "VERSION")]
    versions: Vec<Version>,
}

/// Runs a test of a source on both paths, at once.
///
/// # Panics
/// When one of them does.
pub fn on_both(test: impl Fn(Fetch) + Sync) {
    thread::scope(|scope| {
        for fetch in [Fetch::Own, Fetch::Librdkafka] {
            let test = &test;
            scope.spawn(move || test(fetch));
        }
    });
}

/// A kind of topic that both paths are to read alike.
pub type Check = fn(&Broker) -> Result<()>;

/// All of them, by name.
const CHECKS: [(&str, Check); 8] = [
    ("every codec and shape of record", codecs),
    ("producers' timestamps", producers_timestamps),
    ("transactions with aborts of several producers", transactions),
    ("a record of ten megabytes among small ones", large_record),
    ("two hundred partitions", many_partitions),
    ("gaps of compaction", compaction),
    ("every listener and mechanism", listeners),
    ("messages of old formats", old_messages),
];

/// Runs all checks on each release. False when one finds a difference.
///
/// # Errors
/// When a broker cannot be started.
pub fn run(options: &Options) -> Result<bool> {
    let all = [Version::V4_1, Version::V3_9, Version::V2_8];
    let versions = if options.versions.is_empty() { &all[..] } else { &options.versions };
    let (mut compared, mut failed) = (0, 0);
    for &version in versions {
        let kafka = Broker::start(BrokerOptions { version, ..BrokerOptions::default() })?;
        for (name, check) in CHECKS {
            let outcome = check(&kafka);
            let verdict = outcome.as_ref().map_or_else(|error| format!("{error:#}"), |()| "same".to_owned());
            println!("{version:?}: {name}: {verdict}");
            compared += 1;
            failed += usize::from(outcome.is_err());
        }
    }
    println!("{compared} topics read by both paths, {failed} differ");
    Ok(failed == 0)
}

/// Small and large batches of every codec, by two producers in turns.
///
/// # Errors
/// When the paths differ.
pub fn codecs(kafka: &Broker) -> Result<()> {
    const TOPIC: &str = "paths-codecs";
    kafka.create_topic(TOPIC, 3, &[])?;
    for (seed, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        for batch in ["1000", "900000"] {
            let settings = [("compression.type", codec), ("batch.size", batch)];
            kafka.produce_with(&settings, TOPIC, mixed(1_500, 3, seed))?;
        }
    }
    both_read(kafka, TOPIC, 15_000)
}

/// Timestamps of producers, which go back and forth within a batch.
///
/// # Errors
/// When the paths differ.
pub fn producers_timestamps(kafka: &Broker) -> Result<()> {
    const TOPIC: &str = "paths-create-time";
    kafka.create_topic(TOPIC, 1, &[("message.timestamp.type", "CreateTime")])?;
    let at = |n: i64| Record {
        timestamp_ms: Some(1_700_000_000_000 + (n * 7_919) % 10_000),
        ..Record::new(0, n.to_string())
    };
    kafka.produce(TOPIC, (0..2_000).map(at))?;
    both_read(kafka, TOPIC, 2_000)
}

/// Three producers whose transactions overlap, some of them aborted, beside one without.
///
/// # Errors
/// When the paths differ.
pub fn transactions(kafka: &Broker) -> Result<()> {
    const TOPIC: &str = "paths-transactions";
    kafka.create_topic(TOPIC, 2, &[])?;
    let producer = |n: i32| -> Result<BaseProducer> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka.bootstrap()).set("transactional.id", format!("{TOPIC}-{n}"));
        let producer: BaseProducer = config.set("linger.ms", "0").create()?;
        producer.init_transactions(PATIENCE)?;
        Ok(producer)
    };
    let producers = (0..3).map(producer).collect::<Result<Vec<_>>>()?;
    let mut committed = 0;
    for round in 0..12_usize {
        producers.iter().try_for_each(BaseProducer::begin_transaction)?;
        for n in 0..5_usize {
            for (p, producer) in producers.iter().enumerate() {
                let value = format!("{round}-{n}-{p}");
                let record = BaseRecord::<str, str>::to(TOPIC).payload(&value).partition((n % 2) as i32);
                producer.send(record).map_err(|(error, _)| error)?;
                producer.flush(PATIENCE)?;
            }
        }
        kafka.produce(TOPIC, [Record::new(0, format!("plain {round}"))])?;
        committed += 1;
        for (p, producer) in producers.iter().enumerate() {
            if (round + p) % 3 == 0 {
                producer.abort_transaction(PATIENCE)?;
            } else {
                producer.commit_transaction(PATIENCE)?;
                committed += 5;
            }
        }
    }
    both_read(kafka, TOPIC, committed)
}

/// A record that is larger than an answer usually is.
///
/// # Errors
/// When the paths differ.
pub fn large_record(kafka: &Broker) -> Result<()> {
    const TOPIC: &str = "paths-large";
    kafka.create_topic(TOPIC, 2, &[("max.message.bytes", "12000000")])?;
    let large = Record::new(0, (0..10_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    let small = |from: usize| mixed(300, 2, from);
    kafka.produce(TOPIC, small(1).chain([large]).chain(small(2)))?;
    both_read(kafka, TOPIC, 601)
}

/// Many partitions, a quarter of them empty, and of the others more than an answer has room for.
///
/// # Errors
/// When the paths differ.
pub fn many_partitions(kafka: &Broker) -> Result<()> {
    const TOPIC: &str = "paths-many";
    kafka.create_topic(TOPIC, 200, &[])?;
    kafka.produce(TOPIC, mixed(60_000, 150, 9))?;
    both_read(kafka, TOPIC, 60_000)
}

/// Offsets that compaction left out.
///
/// # Errors
/// When the paths differ.
pub fn compaction(kafka: &Broker) -> Result<()> {
    const TOPIC: &str = "paths-compacted";
    let config = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("min.compaction.lag.ms", "0"),
        ("max.compaction.lag.ms", "100"),
        ("delete.retention.ms", "60000"),
    ];
    kafka.create_topic(TOPIC, 1, &config)?;
    let keyed =
        |round: usize| (0..200).map(move |n| Record::new(0, format!("{round}")).with_key(format!("{}", n % 20)));
    let of = |fetch| read(settings(kafka, TOPIC, fetch, Isolation::ReadCommitted));
    let mut written = 0;
    let mut round = 0;
    while of(Fetch::Own)?.remove(&0).unwrap_or_default().len() == written {
        ensure!(round < 200, "the cleaner has not run");
        kafka.produce(TOPIC, keyed(round))?;
        (round, written) = (round + 1, written + 200);
    }
    // While the cleaner is at work two reads may differ: they agree soon, or never do.
    for _ in 0..50 {
        if of(Fetch::Own)? == of(Fetch::Librdkafka)? {
            return Ok(());
        }
    }
    both_read(kafka, TOPIC, written)
}

/// Messages as Kafka before 0.11 wrote them, of every codec; a broker that writes them no more has nothing to compare.
/// librdkafka does not read them there: what our own path reads is held against what was written.
fn old_messages(kafka: &Broker) -> Result<()> {
    if !kafka.writes_old_formats() {
        return Ok(());
    }
    for format in ["0.9.0", "0.10.2"] {
        let topic = format!("paths-old-{format}");
        kafka.create_topic(&topic, 1, &[("message.format.version", format)])?;
        let mut written = Vec::new();
        for codec in ["none", "gzip", "snappy", "lz4"] {
            let value = |n: usize| format!("{codec} {n:>60}").into_bytes();
            let settings = [("compression.type", codec), ("enable.idempotence", "false")];
            kafka.produce_with(&settings, &topic, (0..500).map(|n| Record::new(0, value(n))))?;
            written.extend((0..500).map(value));
        }
        let read = read(settings(kafka, &topic, Fetch::Own, Isolation::ReadCommitted))?.remove(&0).unwrap_or_default();
        let offsets_go_on = read.iter().enumerate().all(|(n, record)| record.offset == n as i64);
        let same = read.iter().map(|record| record.value.as_ref()).eq(written.iter().map(Some));
        ensure!(offsets_go_on && same, "{} of {} records of format {format}", read.len(), written.len());
    }
    Ok(())
}

/// A topic over each listener, by each mechanism; a broker that has one listener has nothing to compare.
///
/// # Errors
/// When the paths differ.
pub fn listeners(kafka: &Broker) -> Result<()> {
    const TOPIC: &str = "paths-listeners";
    kafka.create_topic(TOPIC, 2, &[])?;
    kafka.produce(TOPIC, mixed(300, 2, 3))?;
    let plain = settings(kafka, TOPIC, Fetch::Own, Isolation::ReadCommitted);
    let expected = read(plain.clone())?;
    // The token is read when it is needed.
    let folder = tempfile::tempdir()?;
    for (listener, security) in secured(kafka, folder.path())? {
        for fetch in [Fetch::Own, Fetch::Librdkafka] {
            let connection = KafkaConnection { brokers: vec![kafka.address(listener)], security: security.clone() };
            let read = read(SourceSettings { connection, fetch, ..plain.clone() });
            let read = read.with_context(|| format!("{listener:?}, {fetch:?}, {:?}", security.sasl))?;
            ensure!(read == expected, "{fetch:?} over {listener:?}: {}", first_difference(&read, &expected));
        }
    }
    Ok(())
}

/// Each listener with what it takes: TLS with and without a client's certificate, each mechanism with and without TLS.
fn secured(kafka: &Broker, folder: &Path) -> Result<Vec<(Listener, Security)>> {
    if !kafka.is_secured() {
        return Ok(vec![]);
    }
    let Certificates { ca, certificate, key, issuer_key, .. } = kafka.certificates();
    let (password, token) = (folder.join("password"), folder.join("token"));
    fs::write(&password, PASSWORD)?;
    fs::write(&token, unsigned_token("alice"))?;
    let file = |path: &PathBuf| SecretRef::File(path.clone());
    let tls = || TlsSettings { ca: Some(file(&ca)), ..TlsSettings::default() };
    let mtls = TlsSettings { certificate: Some(file(&certificate)), key: Some(file(&key)), ..tls() };
    let username = || "alice".to_owned();
    let scram = |hash| SaslSettings::Scram { hash, username: username(), password: file(&password) };
    let by_password = || {
        let plain = SaslSettings::Plain { username: username(), password: file(&password) };
        [plain, scram(ScramHash::Sha256), scram(ScramHash::Sha512)]
    };
    let mut ways = vec![(Listener::Tls, Some(tls()), None), (Listener::Mtls, Some(mtls), None)];
    ways.extend(by_password().map(|sasl| (Listener::SaslPlaintext, None, Some(sasl))));
    ways.extend(by_password().map(|sasl| (Listener::SaslTls, Some(tls()), Some(sasl))));
    let bearer = SaslSettings::OauthBearer(TokenSettings::Given(file(&token)));
    ways.push((Listener::SaslTls, Some(tls()), Some(bearer)));
    let provider = Oidc::start(&fs::read_to_string(&issuer_key)?, &fs::read_to_string(&key)?);
    let oidc = OidcSettings {
        token_url: provider.token_url(),
        client_id: "tidemill".to_owned(),
        proof: ClientProof::Key { key: file(&key), password: None, id: None },
        scope: None,
        audience: None,
        ca: None,
    };
    ways.push((Listener::Oidc, Some(tls()), Some(SaslSettings::OauthBearer(TokenSettings::Oidc(Box::new(oidc))))));
    let secrets = Arc::new(SecretStore::new(None));
    let clock = machine_clock();
    let resolve = |(listener, tls, sasl)| {
        Ok((listener, SecuritySettings { tls, sasl, ..SecuritySettings::default() }.resolve(&secrets, &clock)?))
    };
    ways.into_iter().map(resolve).collect()
}

/// Both give the same under both isolations, and so many records of committed transactions.
fn both_read(kafka: &Broker, topic: &str, committed: usize) -> Result<()> {
    for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
        let of = |fetch| read(settings(kafka, topic, fetch, isolation));
        let (own, librdkafka) = (of(Fetch::Own)?, of(Fetch::Librdkafka)?);
        let difference = || first_difference(&own, &librdkafka);
        ensure!(own == librdkafka, "`{topic}` differs under {isolation:?}: {}", difference());
        let count: usize = own.values().map(Vec::len).sum();
        let expected = if isolation == Isolation::ReadCommitted { count == committed } else { count >= committed };
        ensure!(expected, "`{topic}` has {count} records under {isolation:?}, {committed} were committed");
    }
    Ok(())
}

fn settings(kafka: &Broker, topic: &str, fetch: Fetch, isolation: Isolation) -> SourceSettings {
    SourceSettings {
        input: "t".into(),
        connection: KafkaConnection { brokers: vec![kafka.bootstrap().to_owned()], ..KafkaConnection::default() },
        topics: vec![topic.to_owned()],
        isolation,
        accept_create_time: true,
        queue_kib: 16_384,
        fetch,
        rack: None,
    }
}

/// A record as it was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    offset: i64,
    timestamp_ms: i64,
    kind: TimestampKind,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// All of a topic up to its end, by partition.
fn read(settings: SourceSettings) -> Result<BTreeMap<u32, Vec<Read>>> {
    let input = KafkaInput::connect(settings, machine_clock(), PATIENCE)?;
    let ends = input.end_offsets()?;
    let mut sources = input.open(2, &vec![0; ends.len()], Some(&ends), true)?;
    let mut read: BTreeMap<u32, Vec<Read>> = BTreeMap::new();
    while !sources.iter().all(|source| source.finished()) {
        for source in &mut sources {
            take(source.as_mut(), &mut read).context("the source stopped")?;
        }
    }
    Ok(read)
}

fn take(source: &mut dyn Source, read: &mut BTreeMap<u32, Vec<Read>>) -> tidemill_engine::Result<()> {
    let visit = &mut |event: SourceEvent<'_>| {
        if let SourceEvent::Records { partition, records, .. } = event {
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            read.entry(partition.0).or_default().extend(records.iter().map(|record| Read {
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                kind: record.timestamp_kind,
                key: owned(record.key),
                value: owned(record.value),
                headers: record.headers.iter().map(|h| (h.name.to_owned(), owned(h.value))).collect(),
            }));
        }
        Ok(())
    };
    source.poll(Duration::from_millis(20), visit)
}

fn first_difference(own: &BTreeMap<u32, Vec<Read>>, librdkafka: &BTreeMap<u32, Vec<Read>>) -> String {
    let short = |read: Option<&Read>| format!("{read:?}").chars().take(300).collect::<String>();
    for (partition, theirs) in librdkafka {
        let ours = own.get(partition).map_or(&[][..], Vec::as_slice);
        let differs = |index: &usize| ours.get(*index) != theirs.get(*index);
        if let Some(index) = (0..ours.len().max(theirs.len())).find(differs) {
            return format!(
                "partition {partition}: own {}, librdkafka {}",
                short(ours.get(index)),
                short(theirs.get(index))
            );
        }
    }
    "partitions that only our own path has".to_owned()
}

/// Records of every shape, the same for the same seed.
fn mixed(count: usize, partitions: i32, seed: usize) -> impl Iterator<Item = Record> {
    (0..count).map(move |i| {
        let n = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
        let value = match n % 7 {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(n % 500)).into_bytes()),
        };
        let headers = (0..n % 3).map(|h| (format!("h{h}"), vec![b'v'; h * 40])).collect();
        Record {
            partition: (n % partitions as usize) as i32,
            key: (n % 2 == 0).then(|| format!("key-{}", n % 50).into_bytes()),
            value,
            headers,
            timestamp_ms: None,
        }
    })
}
