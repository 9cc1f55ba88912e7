//! `tidemill demo`: a broker inside the process, a generator, and the job of `examples/demo.yaml`, run as any other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use tidemill_connectors::kafka::embedded::{EmbeddedBroker, TopicProducer};
use tidemill_engine::Clock;
use tidemill_jobs::{run::RunOptions, spec};

use super::run;
use crate::{
    cli::{DemoArgs, LogFormat},
    clock::MachineClock,
    failure::Failure,
    logging, signals, terminal,
};

/// The job, with the address that a broker has in documentation.
const SPEC: &str = include_str!("../../examples/demo.yaml");
/// What stands in [`SPEC`] for the broker, and is replaced by the address of the one in this process.
const BROKER: &str = "localhost:9092";
const TOPIC: &str = "clicks";
const PARTITIONS: i32 = 4;
const EVENTS_PER_SECOND: i64 = 1_000;
/// How often those are made that are due.
const PULSE: Duration = Duration::from_millis(10);
/// One event in so many is not JSON.
const BAD_ONE_IN: u64 = 500;

pub(super) fn demo(args: &DemoArgs) -> Result<(), Failure> {
    logging::init(LogFormat::Text);
    terminal::say(
        "tidemill demo: a Kafka broker inside this process, about 1,000 clicks a second, a few of them broken.\n\
         The job is examples/demo.yaml: clicks and visitors of each page, each 2 seconds. Ctrl-C ends it.",
    );
    let broker = EmbeddedBroker::start().context("cannot start the broker")?;
    broker.create_topic(TOPIC, PARTITIONS).context("cannot create the topic")?;
    // Dead letters go where nobody keeps things.
    let directory = std::env::temp_dir().join(format!("tidemill-demo-{}", std::process::id()));
    let job = spec::parse(&SPEC.replace(BROKER, &broker.bootstrap()), &directory, "examples/demo.yaml")?;

    let clock = MachineClock::start();
    let stop = Arc::new(AtomicBool::new(false));
    let generator = Generator {
        producer: broker.producer(TOPIC).context("cannot make a producer")?,
        clock: Arc::clone(&clock),
        stop: Arc::clone(&stop),
        random: Random(0x5eed),
    };
    let generator = thread::Builder::new()
        .name("generator".to_owned())
        .spawn(move || generator.run())
        .context("cannot start the generator")?;
    signals::set_on_signal(Arc::clone(&stop)).context("cannot wait for signals")?;
    let options = RunOptions {
        from_start: true,
        stop: Arc::clone(&stop),
        ..RunOptions::new(Duration::from_secs(15), Arc::clone(&clock))
    };
    let mut first_event = None;
    let ran = run::execute(&job, &options, &mut |status| {
        if status.records() > 0 {
            let since_us = clock.monotonic().0 - first_event.get_or_insert(clock.monotonic()).0;
            if args.seconds.is_some_and(|seconds| since_us >= i64::from(seconds) * 1_000_000) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    let generated = generator.join().map_err(|_| anyhow!("the generator panicked; please report this as a bug"))?;
    ran?;
    Ok(generated.context("the generator cannot go on")?)
}

/// Produces clicks until it is stopped; the same ones each time.
struct Generator {
    producer: TopicProducer,
    clock: Arc<dyn Clock>,
    stop: Arc<AtomicBool>,
    random: Random,
}

impl Generator {
    fn run(mut self) -> anyhow::Result<()> {
        let start = self.clock.monotonic();
        let mut made = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let due = (self.clock.monotonic().0 - start.0) * EVENTS_PER_SECOND / 1_000_000;
            let timestamp_ms = self.clock.wall().0 / 1_000;
            for _ in made..due {
                let (user, event) = self.event();
                self.producer.send(&user, event.as_bytes(), timestamp_ms)?;
            }
            made = due;
            thread::sleep(PULSE);
        }
        Ok(())
    }

    /// A user, and a click of theirs as JSON.
    fn event(&mut self) -> (String, String) {
        const PAGES: [&str; 5] = ["/home", "/search", "/product", "/cart", "/checkout"];
        let user = format!("user-{}", self.random.below(200));
        // Fewer and fewer go on to the next page.
        let page = self.random.below(5).min(self.random.below(5)) as usize;
        let is_paid = page == PAGES.len() - 1;
        let amount = if is_paid { self.random.below(20_000) as f64 / 100.0 } else { 0.0 };
        let mut event = format!(r#"{{"user":"{user}","page":"{}","amount":{amount}}}"#, PAGES[page]);
        if self.random.below(BAD_ONE_IN) == 0 {
            event.truncate(event.len() / 2);
        }
        (user, event)
    }
}

/// Knuth's linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_job_is_valid_and_names_its_broker_once() {
        assert_eq!(SPEC.matches(BROKER).count(), 1);
        spec::parse(SPEC, Path::new(""), "examples/demo.yaml").unwrap();
    }
}
