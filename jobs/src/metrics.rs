//! `/metrics` and `/healthz` of a run, over HTTP.
//!
//! What Prometheus scrapes is made from [`Stats`] at each scrape, so a run has one set of counters. Names follow its
//! conventions: counters end in `_total`, times are seconds, sizes bytes.

use std::{fmt, io, net::SocketAddr, sync::Arc, thread};

use axum::{Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};
use tidemill_engine::{Clock, EventTime};
use tokio::{net::TcpListener, runtime, sync::oneshot};

use crate::run::{
    Certificate, EpochStatus, FetchStatus, Fetched, InputStatus, PartitionStatus, SecretsStatus, Stats, Status,
};

/// The media type of OpenMetrics text, which Prometheus asks for and everyone can read.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until it is dropped.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl MetricsServer {
    /// Where it listens; the port is a real one where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // what became of it concerns nobody any more
        }
    }
}

/// Serves the metrics of a run at `address` (`host:port`) on a thread of its own. `/healthz` answers 200 while it lives.
///
/// # Errors
/// When the address is none or in use, or no thread can be started.
pub fn serve(address: &str, stats: Arc<Stats>, clock: Arc<dyn Clock>) -> io::Result<MetricsServer> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut registry = Registry::default();
    registry.register("tidemill_build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    registry.register_collector(Box::new(RunCollector { stats, clock }));
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "ok\n"))
        .with_state(Arc::new(registry));
    let (stop, stopped) = oneshot::channel();
    let serve = async move {
        let listener = TcpListener::from_std(listener)?;
        tokio::select! {
            served = axum::serve(listener, router) => served,
            _ = stopped => Ok(()),
        }
    };
    let thread = thread::Builder::new().name("metrics".to_owned()).spawn(move || runtime.block_on(serve))?;
    Ok(MetricsServer { address, stop: Some(stop), thread: Some(thread) })
}

async fn scrape(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    encode(&mut text, &registry).expect("memory takes every byte");
    ([(CONTENT_TYPE, OPEN_METRICS)], text)
}

/// Makes metrics of a run's status.
struct RunCollector {
    stats: Arc<Stats>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for RunCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunCollector").finish_non_exhaustive()
    }
}

impl Collector for RunCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.stats.status(self.clock.as_ref(), false);
        encode_status(&status, &mut encoder)?;
        encode_fetches(&status.inputs, &mut encoder)?;
        encode_certificates(&self.stats.certificates(), self.clock.wall(), &mut encoder)?;
        encode_secrets(&self.stats.secrets(), &mut encoder)
    }
}

type Labels = Vec<(&'static str, String)>;

fn encode_status(status: &Status, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let by_input = |count: fn(&InputStatus) -> u64| {
        status.inputs.iter().map(move |input| (vec![("input", input.name.clone())], count(input)))
    };
    let bad = status.inputs.iter().flat_map(|input| {
        let labels = |class: &str| vec![("input", input.name.clone()), ("class", class.to_owned())];
        input.bad.iter().map(move |(class, count)| (labels(class.as_str()), *count))
    });
    let rows = status.outputs.iter().map(|output| (vec![("output", output.name.clone())], output.rows));
    let late = [(vec![], status.late)];
    counter(encoder, "tidemill_records", "Records taken from an input", by_input(|input| input.records))?;
    counter(encoder, "tidemill_bytes", "Bytes of their payloads", by_input(|input| input.bytes))?;
    counter(encoder, "tidemill_tombstones", "Records without a payload", by_input(|input| input.tombstones))?;
    let moved = by_input(|input| input.adjusted);
    counter(encoder, "tidemill_adjusted_rows", "Rows whose event time was moved up to a bound", moved)?;
    let back = by_input(|input| input.stepped_back);
    counter(encoder, "tidemill_stepped_back_rows", "Rows whose LogAppendTime was below an earlier one", back)?;
    counter(encoder, "tidemill_bad_records", "Records that could not be processed, by class", bad)?;
    counter(encoder, "tidemill_late_rows", "Rows that came after their windows had closed", late)?;
    let failures = status.function_failures.iter().map(|(name, n)| (vec![("function", name.clone())], *n));
    let help = "Calls of a function of the spec that failed and gave NULL";
    counter(encoder, "tidemill_function_failures", help, failures)?;
    counter(encoder, "tidemill_rows_out", "Rows handed to an output", rows)?;

    let EpochStatus { committed, snapshots, snapshot_bytes, longest_pause_us } = status.epochs;
    counter(encoder, "tidemill_epochs", "Epochs that were committed", [(vec![], committed)])?;
    counter(encoder, "tidemill_snapshots", "Snapshots that were put into the state store", [(vec![], snapshots)])?;
    gauge(encoder, "tidemill_snapshot_bytes", "Size of the newest snapshot", [(vec![], snapshot_bytes as f64)])?;
    let help = "The longest that a worker took no records because of a snapshot";
    gauge(encoder, "tidemill_snapshot_pause_seconds", help, [(vec![], longest_pause_us as f64 / 1e6)])?;

    let partitions = || status.inputs.iter().flat_map(|input| input.partitions.iter().map(move |p| (input, p)));
    let lag = partitions().filter_map(|(input, p)| Some((partition_labels(input, p), p.lag? as f64)));
    let watermarks = partitions().filter(|(_, p)| p.watermark > EventTime::MIN && p.watermark < EventTime::MAX);
    let watermarks = watermarks.map(|(input, p)| (partition_labels(input, p), p.watermark.0 as f64 / 1e6));
    let delay = status.watermark().map(|watermark| (vec![], (status.at.0 - watermark.0) as f64 / 1e6));
    gauge(encoder, "tidemill_partition_lag", "Records that are known to lie ahead", lag)?;
    gauge(encoder, "tidemill_watermark_seconds", "No later row is older, Unix time", watermarks)?;
    gauge(encoder, "tidemill_watermark_delay_seconds", "The clock less the smallest watermark", delay)
}

fn encode_secrets(secrets: &SecretsStatus, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let SecretsStatus { fetched_at, failures, rotations, pause_us } = *secrets;
    let fetched = fetched_at.map(|at| (vec![], at.as_secs() as f64));
    gauge(encoder, "tidemill_secrets_fetched_seconds", "When secrets were last fetched again, Unix time", fetched)?;
    let help = "How often secrets could not be fetched again, or not be used";
    counter(encoder, "tidemill_secret_failures", help, [(vec![], failures)])?;
    let help = "How often connections were made anew with new secrets";
    counter(encoder, "tidemill_secret_rotations", help, [(vec![], rotations)])?;
    let help = "How long no records were taken for the last of these";
    gauge(encoder, "tidemill_secret_rotation_pause_seconds", help, [(vec![], pause_us as f64 / 1e6)])
}

/// What came from Kafka: by broker what our own fetch requests brought, by partition what was in it.
fn encode_fetches(inputs: &[InputStatus], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let paths = inputs.iter().filter_map(|input| {
        let path = input.path.as_ref()?.name().to_owned();
        Some((vec![("input", input.name.clone()), ("path", path)], 1.0))
    });
    gauge(encoder, "tidemill_fetch_path", "1 for the way by which records come, own or rdkafka", paths)?;

    let brokers = || inputs.iter().flat_map(|input| input.fetches.iter().map(move |fetches| (input, fetches)));
    let labels = |input: &InputStatus, fetches: &FetchStatus| {
        vec![("input", input.name.clone()), ("broker", fetches.broker.to_string())]
    };
    let by_broker = |count: fn(&FetchStatus) -> u64| {
        brokers().map(move |(input, fetches)| (labels(input, fetches), count(fetches)))
    };
    counter(encoder, "tidemill_fetch_answers", "Answers to fetches", by_broker(|fetches| fetches.answers))?;
    counter(encoder, "tidemill_fetch_bytes", "Bytes of these answers", by_broker(|fetches| fetches.bytes))?;
    let broken = by_broker(|fetches| fetches.failures);
    counter(encoder, "tidemill_fetch_failures", "Connections for fetches that broke or were not made", broken)?;
    let waited = brokers().map(|(input, fetches)| (labels(input, fetches), fetches.waited_us as f64 / 1e6));
    let help = "Time between fetches and their answers; a broker without news answers after 0.1 s";
    counter(encoder, "tidemill_fetch_seconds", help, waited)?;
    let in_flight = brokers().map(|(input, fetches)| (labels(input, fetches), fetches.in_flight as f64));
    gauge(encoder, "tidemill_fetches_in_flight", "Fetches that were not answered yet", in_flight)?;

    let by_partition = |count: fn(&Fetched) -> u64| {
        let partitions = inputs.iter().flat_map(|input| input.partitions.iter().map(move |p| (input, p)));
        partitions.filter_map(move |(input, p)| Some((partition_labels(input, p), count(p.fetched.as_ref()?))))
    };
    let records = by_partition(|fetched| fetched.records);
    counter(encoder, "tidemill_fetched_records", "Records that came of a partition", records)?;
    let batches = by_partition(|fetched| fetched.batches);
    counter(encoder, "tidemill_fetched_batches", "Their batches, where our own path reads", batches)?;
    let packed = by_partition(|fetched| fetched.batch_bytes);
    counter(encoder, "tidemill_fetched_batch_bytes", "Bytes of these batches as they came", packed)?;
    let unpacked = by_partition(|fetched| fetched.unpacked_bytes);
    counter(encoder, "tidemill_unpacked_bytes", "Bytes of the records in them, unpacked", unpacked)?;
    let changes = by_partition(|fetched| fetched.leader_changes);
    counter(encoder, "tidemill_leader_changes", "How often a partition came from another broker than before", changes)
}

fn encode_certificates(
    certificates: &[Certificate],
    now: EventTime,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let left = certificates.iter().map(|Certificate { owner, expiry }| {
        let labels =
            vec![("connection", owner.clone()), ("part", expiry.part.to_string()), ("subject", expiry.subject.clone())];
        (labels, expiry.not_after as f64 - now.0 as f64 / 1e6)
    });
    gauge(encoder, "tidemill_certificate_expiry_seconds", "Until a certificate ends", left)
}

fn partition_labels(input: &InputStatus, partition: &PartitionStatus) -> Labels {
    vec![("input", input.name.clone()), ("topic", partition.topic.clone()), ("partition", partition.number.to_string())]
}

/// The encoder puts `_total` behind the name.
fn counter<N: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Labels, N)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
