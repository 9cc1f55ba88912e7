//! `cargo xtask bench memory`: what state takes, and that it goes when its time has passed.
//!
//! A key in a slice of a window: by what the peak of a run grows when the same keys come in more slices. Growth: the peak of a run
//! over many events whose keys come and go against that of a run over a tenth of them, with every kind of state in one job.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::report::Measure;
use super::{Options, PARTITIONS, Programs, filled};
use crate::kafka::{Broker, BrokerOptions, Record};

/// Keys of each slice.
const KEYS: u64 = 300_000;
/// Slices of the two runs.
const SLICES: [u64; 2] = [4, 20];
/// The most that a key may take in a slice, with five aggregates.
const BYTES_PER_KEY_LIMIT: f64 = 150.0;

/// How many times as many events as the default of the benches.
const MANY: u64 = 5;
/// The part of them that the short run reads.
const FEW: u64 = 10;
/// Of event time, which is not that of loading: what is open at once does not depend on how fast that is.
const EVENTS_PER_MS: u64 = 100;
/// Events of a key.
const EVENTS_PER_KEY: u64 = 8;
/// The peak of the long run may be this much of that of the short one.
const GROWTH_LIMIT: f64 = 1.1;

/// Measures.
pub(super) fn run(options: &Options) -> Result<Vec<Measure>> {
    let programs = Programs::build(options, &["tidemill"])?;
    let folder = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    Ok(vec![a_key(&programs, folder.path())?, growth(&programs, folder.path(), options.events * MANY)?])
}

/// The bytes of a key in a slice.
fn a_key(programs: &Programs, folder: &Path) -> Result<Measure> {
    let mut peaks = [0.0; 2];
    for (peak, slices) in peaks.iter_mut().zip(SLICES) {
        let events = folder.join("slices.json");
        write_slices(&events, slices)?;
        let spec = filled("slices", folder, &[("$FILE", &events.display().to_string())])?;
        let usage = programs.bounded(&spec, 1, KEYS * slices)?;
        eprintln!("{KEYS} keys in {slices} slices: {usage}");
        *peak = usage.peak_bytes as f64;
    }
    let bytes = (peaks[1] - peaks[0]) / ((SLICES[1] - SLICES[0]) * KEYS) as f64;
    println!("a key in a slice: {bytes:.0} bytes");
    Ok(Measure { name: "bytes_of_150_a_key_and_slice", ratio: bytes / BYTES_PER_KEY_LIMIT, limit: Some(1.0) })
}

/// All keys in each second.
fn write_slices(path: &Path, slices: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for second in 0..slices {
        for key in 0..KEYS {
            let (amount, quantity) = (key % 97, key % 9);
            writeln!(
                file,
                r#"{{"user":"user-{key:07}","amount":{amount}.25,"quantity":{quantity},"at":"2026-01-01T00:00:{second:02}.5Z"}}"#
            )?;
        }
    }
    Ok(file.flush()?)
}

/// The peak of a run over `events` against one over a tenth of them.
fn growth(programs: &Programs, folder: &Path, events: u64) -> Result<Measure> {
    let kafka = Broker::start(BrokerOptions { long_run: true, ..BrokerOptions::default() })?;
    let begin = SystemTime::now() - Duration::from_hours(24);
    let seconds = begin.duration_since(SystemTime::UNIX_EPOCH)?.as_secs().to_string();
    let mut peaks = vec![];
    for (topic, events) in [("few", events / FEW), ("many", events)] {
        eprintln!("loading {events} events into {topic} ...");
        kafka.create_topic(topic, PARTITIONS, &[])?;
        let record = |i: u64| {
            let key = i / EVENTS_PER_KEY;
            let (amount, ms) = (i % 97, i / EVENTS_PER_MS);
            let event = format!(r#"{{"id":{i},"user":"user-{key:09}","amount":{amount}.25,"ms":{ms}}}"#);
            Record::new((key % PARTITIONS as u64) as i32, event)
        };
        kafka.produce(topic, (0..events).map(record))?;
        let spec =
            filled("growth", folder, &[("$BROKER", kafka.bootstrap()), ("$TOPIC", topic), ("$SECONDS", &seconds)])?;
        let usage = programs.bounded(&spec, 1, events)?;
        eprintln!("{events} events: {usage}");
        peaks.push(usage.peak_bytes as f64);
    }
    Ok(Measure { name: "peak_of_many_events_to_few", ratio: peaks[1] / peaks[0], limit: Some(GROWTH_LIMIT) })
}
