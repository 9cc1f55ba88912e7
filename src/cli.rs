//! The command line: what `--help` says is written here.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tidemill_jobs::spec::{ByteSize, Duration};

const EXAMPLES: &str = "\
Examples:
  tidemill demo                     watch windows close on live data; needs nothing else
  tidemill validate job.yaml        every mistake of a job, without connecting to anything
  tidemill explain job.yaml         its plan: steps, windows, state, columns
  tidemill doctor job.yaml          does everything answer that the job connects to? if not, why
  tidemill run job.yaml             run it until Ctrl-C; it goes on where it left off
  tidemill run job.yaml --bounded   read what is there now, close every window, exit
  tidemill sql --kafka localhost:9092 'SELECT page, COUNT(*) FROM clicks GROUP BY page'

A job is a YAML file of inputs, outputs and a query:

  name: clicks-per-minute
  inputs:
    clicks: {kafka: {brokers: [localhost:9092], topic: clicks}}
  outputs:
    screen: {stdout: {}}
  query: |
    SELECT page, COUNT(*) AS clicks, System.Timestamp() AS window_end
    INTO screen FROM clicks GROUP BY page, TumblingWindow(minute, 1)

`tidemill schema` prints all that it may say, as a JSON Schema that editors complete from.

Rows go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed at run time,
2 a mistake that `validate` or the command line can see.
TIDEMILL_LOG=debug logs more, TIDEMILL_LOG=warn less.";

const SQL_EXAMPLES: &str = "\
Examples:
  tidemill sql --kafka localhost:9092                     a prompt; \\d lists topics
  tidemill sql --kafka localhost:9092 'SELECT page, COUNT(*) AS n FROM clicks GROUP BY page ORDER BY n DESC LIMIT 10'
  tidemill sql --context job.yaml \"SELECT * FROM clicks WHERE _timestamp > now() - INTERVAL '1 minute'\"
  tidemill sql --context job.yaml 'SELECT * FROM clicks ORDER BY _offset DESC LIMIT 5'
  tidemill sql --kafka localhost:9092 'EXPLAIN SELECT COUNT(*) FROM clicks'
  tidemill sql --kafka localhost:9092 -o clicks.parquet 'SELECT * FROM clicks'
  tidemill sql --kafka localhost:9092 --for 30s 'SELECT page, COUNT(*) AS n FROM clicks GROUP BY page, TumblingWindow(second, 5)'

A bounded question reads what is there when it is asked; it is SQL as DataFusion has it. A question with windows, or with --follow, goes on;
it is the language of jobs. A name with other characters than letters, digits and _ goes in double quotes.
Columns of every topic: _key, _timestamp, _partition, _offset, _headers; conditions on them narrow what is read.";

const RUN_EXAMPLES: &str = "\
Examples:
  tidemill run job.yaml
  tidemill run job.yaml --bounded > rows.jsonl        rows as JSON lines, progress on stderr
  tidemill run job.yaml --wait 2m --log-format json   as a service; the broker may come up later
  tidemill run job.yaml --metrics 127.0.0.1:9100      then: curl http://127.0.0.1:9100/metrics

Ctrl-C or SIGTERM finishes the batch in hand, flushes and commits; a second one leaves at once.";

/// Windowed SQL over Kafka in one binary.
///
/// tidemill reads topics or files, runs windowed SQL over them (Azure Stream Analytics' dialect and the standard window
/// table functions), and writes topics, files or the terminal.
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES, after_help = "`tidemill --help` shows examples.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job.
    ///
    /// It goes on from the last epoch that a run of it committed; where there is none, from `start` in the job. A copy of the job
    /// that still runs elsewhere stops.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Check a job without connecting to anything.
    ///
    /// Lists every mistake with its place and exits with 2. Columns are checked when every input has a `schema`; otherwise
    /// a run checks them, once it has seen a sample.
    Validate(ValidateArgs),
    /// Show what a job is going to do, without connecting to anything.
    ///
    /// Its steps in the order in which rows go through them: windows, keys, state and when that goes, where a step runs; the
    /// columns that are decoded; how a restart goes on. Columns that are not declared are those that a start has pinned.
    Explain(ExplainArgs),
    /// Look at everything that a job connects to, step by step.
    ///
    /// Secrets, brokers (name, port, TLS, login), topics, group, a sample, directories: each with its time and a tick, or the
    /// cause. Exits with 0 only when all is well. Reads a sample and writes no row.
    Doctor(DoctorArgs),
    /// List the records of a job that could not become rows, by class.
    DeadLetters(DeadLettersArgs),
    /// Run dead letters of a job through their inputs once more.
    ///
    /// After what was wrong with them was mended: a schema, a declared type, the query. Each letter is replayed at most once; what is bad
    /// again becomes a new letter. The outputs are given the rows that would be there if the letters had never been bad; rows that would
    /// not be there are counted.
    Replay(ReplayArgs),
    /// Compare what a job has committed with what its query makes of the same records.
    ///
    /// Reads the inputs again, from where the job began to where it stands, and compares row by row with what its outputs hold:
    /// exit 0 when they are equal, else 1 with the first differences. Touches nothing of the job. It should not run
    /// meanwhile, or the rows that it adds show as more. Rows that stood in a topic before the job began show as more, too.
    Verify(VerifyArgs),
    /// Look at a topic or a file and print the input of a job for it.
    ///
    /// Samples about 1,000 records; prints their format and columns as YAML, with what was seen of each column.
    Infer(InferArgs),
    /// Run pipelines by the clock.
    ///
    /// A job with a `schedule` is run again and again, each time over the records that came in since the time before: each record in
    /// exactly one run, whose files are there as a whole or not at all.
    Schedule(ScheduleArgs),
    /// Ask topics a question in SQL.
    ///
    /// Topics are tables: the columns of their payloads, and those of every record. Rows are a table on a terminal, JSON lines in a pipe.
    #[command(after_help = SQL_EXAMPLES)]
    Sql(SqlArgs),
    /// Print the JSON Schema of job specs.
    ///
    /// Point an editor at it, e.g. by a first line `# yaml-language-server: $schema=spec.schema.json` in a job.
    Schema,
    /// Print shell completions.
    ///
    /// E.g. `tidemill completions bash > /etc/bash_completion.d/tidemill`.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Watch windows close on live data, with nothing to install.
    ///
    /// Starts a Kafka broker inside this process, produces about 1,000 events a second into it, and runs the job
    /// examples/demo.yaml on them: a table on a terminal, JSON lines in a pipe.
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The job's YAML file.
    #[arg(value_name = "JOB")]
    pub(crate) job: PathBuf,
    /// Worker threads [default: `workers` of the job, or one for each core].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Read each input from `start` to its end as it stands now, close every window, exit.
    ///
    /// Neither reads nor writes committed offsets or state.
    #[arg(long)]
    pub(crate) bounded: bool,
    /// Begin at `start`, even where there is something to go on from.
    #[arg(long)]
    pub(crate) from_start: bool,
    /// Go on without the windows that were open, where their state cannot be had.
    ///
    /// When the query has changed so that its state no longer fits, a snapshot cannot be read, or the log no longer has the
    /// records that open windows need, a run stops and says so. With this flag it goes on from the committed offsets.
    #[arg(long)]
    pub(crate) discard_state: bool,
    /// Infer again the columns of inputs without `schema` that the first start had pinned.
    #[arg(long)]
    pub(crate) reinfer: bool,
    /// How long to wait for the first answer of a broker.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub(crate) wait: Duration,
    /// Serve Prometheus metrics at http://ADDR/metrics and liveness at http://ADDR/healthz.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
    /// How log lines are written on stderr.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// The job's YAML file.
    #[arg(value_name = "JOB")]
    pub(crate) job: PathBuf,
    /// For a reader, or one JSON object on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The job's YAML file.
    #[arg(value_name = "JOB")]
    pub(crate) job: PathBuf,
    /// Ask a run, by the address of its metrics, which partition holds the oldest open windows, and why.
    #[arg(long, value_name = "ADDR")]
    pub(crate) why_not_closed: Option<String>,
    /// For a reader, or one JSON object on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The job's YAML file.
    #[arg(value_name = "JOB")]
    pub(crate) job: PathBuf,
    /// How long a step may take.
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) wait: Duration,
    /// For a reader, or one JSON object on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    /// The job's YAML file.
    #[arg(value_name = "JOB")]
    pub(crate) job: PathBuf,
    /// How long to wait for the first answer of a broker.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub(crate) wait: Duration,
    /// For a reader, or one JSON object on stdout.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The job's YAML file.
    #[arg(value_name = "JOB")]
    pub(crate) job: PathBuf,
    /// Only letters of this class, as `dead-letters` shows it.
    #[arg(long, value_name = "C")]
    pub(crate) class: Option<String>,
    /// Only letters put at this time or later (RFC 3339).
    #[arg(long, value_name = "T", value_parser = chrono::DateTime::parse_from_rfc3339)]
    pub(crate) since: Option<chrono::DateTime<chrono::FixedOffset>>,
    /// How long to wait for the first answer of a broker.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The job's YAML file.
    #[arg(value_name = "JOB")]
    pub(crate) job: PathBuf,
    /// Only rows of this event time or later (RFC 3339); then only missing rows are told.
    #[arg(long, value_name = "T", value_parser = chrono::DateTime::parse_from_rfc3339)]
    pub(crate) from: Option<chrono::DateTime<chrono::FixedOffset>>,
    /// Only rows before this event time (RFC 3339); then only missing rows are told.
    #[arg(long, value_name = "T", value_parser = chrono::DateTime::parse_from_rfc3339)]
    pub(crate) to: Option<chrono::DateTime<chrono::FixedOffset>>,
    /// How long to wait for the first answer of a broker.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct InferArgs {
    /// A broker of the cluster, `host:port`.
    #[arg(long, value_name = "HOST:PORT", requires = "topic", required_unless_present_any = ["file", "context"])]
    pub(crate) kafka: Option<String>,
    /// A job's YAML file, on whose cluster the topic is.
    #[arg(long, value_name = "FILE", requires = "topic", conflicts_with = "kafka")]
    pub(crate) context: Option<PathBuf>,
    /// The topic; with `--context` also the name of an input.
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// A file, or files as in a job: a directory, or a pattern such as `in/*.jsonl`.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["kafka", "context", "topic"])]
    pub(crate) file: Option<PathBuf>,
    /// How long to wait for the first answer of a broker.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    #[command(subcommand)]
    pub(crate) command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Run pipelines as their ranges come due, until Ctrl-C.
    ///
    /// A run that fails is tried again, after a pause that grows up to 5 minutes.
    Run {
        /// The jobs' YAML files.
        #[arg(value_name = "SPEC", required = true)]
        specs: Vec<PathBuf>,
        /// Pipelines that run at the same time, at most.
        #[arg(long, value_name = "N", default_value = "2")]
        parallel: NonZeroUsize,
        /// How long to wait for the first answer of a broker.
        #[arg(long, value_name = "DURATION", default_value = "15s")]
        wait: Duration,
    },
    /// Run every range that is due, and exit: for a timer.
    Once {
        /// The jobs' YAML files.
        #[arg(value_name = "SPEC", required = true)]
        specs: Vec<PathBuf>,
        /// How long to wait for the first answer of a broker.
        #[arg(long, value_name = "DURATION", default_value = "15s")]
        wait: Duration,
    },
    /// Show the last run of pipelines, and when they run next.
    List {
        /// The jobs' YAML files.
        #[arg(value_name = "SPEC", required = true)]
        specs: Vec<PathBuf>,
        /// For a reader, or one JSON object a line on stdout.
        #[arg(long, value_enum, default_value_t)]
        format: ReportFormat,
    },
    /// Run the ranges of a period that were not run; those that were stay as they are.
    Backfill {
        /// The job's YAML file.
        #[arg(value_name = "SPEC")]
        spec: PathBuf,
        /// Begin of the period (RFC 3339).
        #[arg(long, value_name = "T", value_parser = chrono::DateTime::parse_from_rfc3339)]
        from: chrono::DateTime<chrono::FixedOffset>,
        /// End of the period (RFC 3339).
        #[arg(long, value_name = "T", value_parser = chrono::DateTime::parse_from_rfc3339)]
        to: chrono::DateTime<chrono::FixedOffset>,
        /// How long to wait for the first answer of a broker.
        #[arg(long, value_name = "DURATION", default_value = "15s")]
        wait: Duration,
    },
    /// Let a pipeline rest; a run that is under way ends as it would.
    Pause {
        /// The job's YAML file.
        #[arg(value_name = "SPEC")]
        spec: PathBuf,
    },
    /// Let a pipeline go on, with what was missed meanwhile as its `catch_up` says.
    Resume {
        /// The job's YAML file.
        #[arg(value_name = "SPEC")]
        spec: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// Brokers of a cluster without security, `host:port`; its topics are the tables.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required_unless_present = "context")]
    pub(crate) kafka: Vec<String>,
    /// Format of the topics of `--kafka` [default: told from a sample].
    #[arg(long, value_name = "F", requires = "kafka")]
    pub(crate) input_format: Option<String>,
    /// A job, or a file with the `inputs` of one: these are the tables.
    #[arg(long, value_name = "FILE", conflicts_with = "kafka")]
    pub(crate) context: Option<PathBuf>,
    /// How rows are written [default: by the name of `-o FILE`; a table on a terminal, JSON lines in a pipe].
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<RowFormat>,
    /// Write the rows to a file, which appears when it is whole.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Go on with what comes in, until Ctrl-C.
    #[arg(long)]
    pub(crate) follow: bool,
    /// End a question that goes on after this time.
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) duration: Option<Duration>,
    /// The value of `$name` in the question: a number, `true`, `false`, or a text.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    pub(crate) parameters: Vec<(String, String)>,
    /// Ask before reading more than this; fail where nobody can be asked.
    #[arg(long, value_name = "SIZE", default_value = "10GB")]
    pub(crate) max_bytes: ByteSize,
    /// Answer COUNT(*) from offsets alone: markers of transactions and compacted records count too.
    #[arg(long)]
    pub(crate) approximate: bool,
    /// Say on stderr, as one JSON object, how many rows there were and what was read for them.
    #[arg(long)]
    pub(crate) stats: bool,
    /// How long to wait for the first answer of a broker.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub(crate) wait: Duration,
    /// The question [default: from stdin; on a terminal, a prompt].
    #[arg(value_name = "QUERY")]
    pub(crate) query: Option<String>,
}

/// `name=value`.
fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.trim_start_matches('$').to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// How the rows of a question are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RowFormat {
    /// Aligned columns.
    Table,
    /// One JSON object a line.
    Json,
    /// A header and a line a row.
    Csv,
    /// A Parquet file.
    Parquet,
    /// Arrow IPC: a stream in a pipe, a file with `-o`.
    Arrow,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End by itself so long after the first event [default: at Ctrl-C].
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for a reader.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// Lines for a reader.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
