//! `cargo xtask`: the developer commands.
#![allow(clippy::print_stdout, reason = "a developer command")]

mod fuzz;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use xtask::{bench, conformance, faults, kafka, paths, rotation, schedule, test, torture};

/// tidemill's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything that must hold before a change lands; what `./x test` ends in.
    Test,
    /// Run worked examples of the SQL dialects. Exits 1 when one fails, 2 when a file cannot be read.
    Conformance {
        /// JSON arrays of cases.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Mutate the corpus of a target and check what must hold for every input; exits 2 at the first that breaks it.
    Fuzz {
        /// What to run.
        target: FuzzTarget,
        /// For how long.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// The same seed makes the same inputs.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Check the input in this file, once, instead.
        #[arg(long)]
        replay: Option<PathBuf>,
    },
    /// Measure what jobs cost on a real Kafka, against a consumer that decodes nothing. Needs some 3 GB of disk.
    Bench(bench::Options),
    /// Simulate the lives of a job with seeded faults; exits 1 when one differs from an undisturbed run.
    Simulate {
        /// How many lives.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first of their seeds.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Kill, freeze and copy a job on a real Kafka, and its broker; exits 1 when a row is lost, there twice or another.
    Torture {
        /// How often.
        #[arg(long, default_value_t = 200)]
        kills: u32,
        /// The same seed makes the same faults in the same order.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Leave the broker alone, and let it take the outputs, too.
        #[arg(long)]
        one_broker: bool,
        /// A `tidemill` that is built already, in release for instance; otherwise it is built as it is.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// Kill, freeze and copy the schedulers of a pipeline on a real Kafka; exits 1 when a record is not in exactly one file, that of its
    /// range.
    Schedule {
        /// Scheduled runs that come about meanwhile, and kills at least.
        #[arg(long, default_value_t = 20)]
        runs: usize,
        /// The same seed makes the same faults in the same order.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// A `tidemill` that is built already.
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// Change the authority that a real Kafka trusts, and the certificates in a key vault, under a job in full run; exits 1 when a
    /// row is lost, there twice or another, or the job pauses for more than 2 s.
    Rotation {
        /// Events a second.
        #[arg(long, default_value_t = 50_000)]
        rate: u64,
        /// How long it runs before the change, and after it.
        #[arg(long, default_value_t = 15)]
        seconds: u64,
    },
    /// Read topics of every shape by our own path and by librdkafka's, on a real Kafka, and compare.
    Paths(paths::Options),
    /// Kill, freeze and cut off brokers of a real cluster of three under a reader of our own path.
    Faults(faults::Options),
    /// Start a real Apache Kafka on free ports, print its address, and keep it until this command ends.
    Kafka,
}

/// Code that takes input from anywhere.
#[derive(Clone, Copy, ValueEnum)]
enum FuzzTarget {
    /// The JSON decoder and schema inference.
    Json,
    /// The Avro decoder.
    Avro,
    /// The same on container files.
    AvroContainer,
    /// The Protobuf decoder.
    Protobuf,
    /// The CSV decoder.
    Csv,
    /// The Parquet decoder.
    Parquet,
    /// The job spec.
    Spec,
    /// The query front end.
    Query,
    /// Answers of Kafka brokers to fetches.
    Fetch,
    /// Kafka's record batches.
    Records,
}

impl FuzzTarget {
    fn target(self) -> Result<Box<dyn fuzz::Target>> {
        Ok(match self {
            Self::Json => Box::new(fuzz::json::Json::new()?),
            Self::Avro => Box::new(fuzz::decoding::Decoding::avro()?),
            Self::AvroContainer => Box::new(fuzz::decoding::Decoding::avro_container()?),
            Self::Protobuf => Box::new(fuzz::decoding::Decoding::protobuf()?),
            Self::Csv => Box::new(fuzz::decoding::Decoding::csv()?),
            Self::Parquet => Box::new(fuzz::decoding::Decoding::parquet()?),
            Self::Spec => Box::new(fuzz::spec::Spec),
            Self::Query => Box::new(fuzz::query::Query::new()),
            Self::Fetch => Box::new(fuzz::fetch::Fetch::default()),
            Self::Records => Box::new(fuzz::records::Records::default()),
        })
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all that was asked for holds.
///
/// # Errors
/// When it could not be found out.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Test => Ok(test::run()?.ok()),
        Command::Conformance { files } => {
            let (mut passed, mut failed) = (0, 0);
            for (id, outcome) in conformance::run_files(&files)? {
                match outcome {
                    Ok(()) => {
                        passed += 1;
                        println!("pass {id}");
                    }
                    Err(difference) => {
                        failed += 1;
                        println!("fail {id}: {difference}");
                    }
                }
            }
            println!("{passed} passed, {failed} failed");
            Ok(failed == 0)
        }
        Command::Fuzz { target, replay: Some(path), .. } => fuzz::replay(&mut *target.target()?, &path).map(|()| true),
        Command::Fuzz { target, seconds, seed, replay: None } => {
            let inputs = fuzz::run(&mut *target.target()?, Duration::from_secs(seconds), seed)?;
            println!("{inputs} inputs, 0 broken");
            Ok(true)
        }
        Command::Bench(options) => bench::run(&options),
        Command::Simulate { seeds, seed } => {
            let mut failed = 0;
            for seed in seed..seed.saturating_add(seeds) {
                if let Err(difference) = tidemill_jobs::simulate::simulate(seed, None) {
                    if failed == 0 {
                        println!("seed {seed}: {difference}");
                        println!("again: cargo xtask simulate --seeds 1 --seed {seed}");
                    }
                    failed += 1;
                }
            }
            println!("{seeds} seeds, {failed} failed");
            Ok(failed == 0)
        }
        Command::Torture { kills, seed, one_broker, binary } => {
            let difference = torture::run(&torture::Options { kills, seed, binary, brokers: !one_broker })?;
            println!("{kills} kills, {difference}");
            Ok(difference.ok())
        }
        Command::Schedule { runs, seed, binary } => {
            let broker = kafka::Broker::start(kafka::BrokerOptions::default())?;
            let outcome = schedule::run(&schedule::Options { runs, seed, binary }, &broker)?;
            let schedule::Outcome { runs, kills, records, difference } = outcome;
            println!("{records} records, {runs} runs, {kills} kills, {difference}");
            Ok(difference.ok())
        }
        Command::Rotation { rate, seconds } => {
            let outcome =
                rotation::run(&rotation::Options { rate, run_for: Duration::from_secs(seconds), binary: None })?;
            println!("{outcome}");
            Ok(outcome.ok())
        }
        Command::Paths(options) => paths::run(&options),
        Command::Faults(options) => faults::run(&options),
        Command::Kafka => kafka::serve().map(|()| true),
    }
}
