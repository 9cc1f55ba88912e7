//! What both sides run: the same text, but for the quotes around names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::super::{OTHERS, TOPIC};
use super::flink;
use crate::kafka::Broker;
use crate::repository::root;

/// The events once more, loaded beside [`OTHERS`]: what is joined with them comes in at the same time.
pub(super) const LEFT: &str = "left";
/// The events once more, compressed.
pub(super) const PACKED: &str = "packed";
/// Events of a million users.
pub(super) const MANY_USERS: &str = "many-users";
/// Events in Avro.
pub(super) const AVRO: &str = "avro";
/// Their schema.
const AVRO_SCHEMA: &str = "bench/events.avsc";

/// Flink's ways to compute an aggregate of a window: at once, or in parts of a mini-batch first. Which is cheaper depends on the keys.
const PHASES: &[&str] = &["ONE_PHASE", "TWO_PHASE"];
/// Where it makes no difference.
const NO_PHASES: &[&str] = &["AUTO"];

/// Names and types of the members that are declared, and so decoded: those that a query needs, if the format lets them be left
/// out.
type Columns = &'static [(&'static str, &'static str)];

const USER_AND_AMOUNT: Columns = &[("user", "string"), ("amount", "double")];

/// The members of an event in Avro, as Flink declares them: all, since it makes the writer's schema of them.
const OF_AVRO: Columns = &[
    ("id", "bigint not null"),
    ("user", "string not null"),
    ("page", "string not null"),
    ("amount", "double not null"),
    ("quantity", "int not null"),
    ("country", "string not null"),
    ("session", "string not null"),
];

/// Of the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Avro,
}

/// How many events there are, by topic.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// A table of a query.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: &'static str,
    pub(super) topic: &'static str,
    pub(super) columns: Columns,
}

const EVENTS: Input = Input { name: "events", topic: TOPIC, columns: USER_AND_AMOUNT };

/// A query, and how it is run.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) name: &'static str,
    /// Names that are keywords stand in brackets.
    pub(super) sql: &'static str,
    pub(super) format: Format,
    pub(super) inputs: &'static [Input],
    /// Workers of tidemill, and Flink's parallelism.
    pub(super) tasks: u32,
    /// Of which the cheapest counts.
    pub(super) strategies: &'static [&'static str],
}

pub(super) const STATELESS: Query = Query {
    name: "stateless",
    sql: "SELECT [user], amount FROM events WHERE amount > 75",
    format: Format::Json,
    inputs: &[EVENTS],
    tasks: 1,
    strategies: NO_PHASES,
};

pub(super) const TUMBLING: Query = Query {
    name: "tumbling, 10,000 keys",
    sql: "SELECT [user], window_start, COUNT(*) AS events, SUM(amount) AS total, MIN(amount) AS least, MAX(amount) AS most \
          FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(_timestamp), INTERVAL '1' SECOND)) \
          GROUP BY [user], window_start, window_end",
    strategies: PHASES,
    ..STATELESS
};

const IN_AVRO: &[Input] = &[Input { topic: AVRO, columns: OF_AVRO, ..EVENTS }];

/// All of them.
pub(super) const QUERIES: &[Query] = &[
    STATELESS,
    Query { name: "stateless, lz4", inputs: &[Input { topic: PACKED, ..EVENTS }], ..STATELESS },
    Query { name: "stateless, Avro", inputs: IN_AVRO, format: Format::Avro, ..STATELESS },
    Query {
        name: "tumbling, 10 keys",
        sql: "SELECT country, window_start, COUNT(*) AS events, SUM(amount) AS total, MIN(amount) AS least, MAX(amount) AS most \
              FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(_timestamp), INTERVAL '1' SECOND)) \
              GROUP BY country, window_start, window_end",
        inputs: &[Input { columns: &[("country", "string"), ("amount", "double")], ..EVENTS }],
        ..TUMBLING
    },
    TUMBLING,
    Query { name: "tumbling, lz4", inputs: &[Input { topic: PACKED, ..EVENTS }], ..TUMBLING },
    Query { name: "tumbling, Avro", inputs: IN_AVRO, format: Format::Avro, ..TUMBLING },
    Query { name: "tumbling, 1,000,000 keys", inputs: &[Input { topic: MANY_USERS, ..EVENTS }], ..TUMBLING },
    Query {
        name: "hopping",
        sql: "SELECT [user], window_start, COUNT(*) AS events, SUM(amount) AS total, MIN(amount) AS least, MAX(amount) AS most \
              FROM TABLE(HOP(TABLE events, DESCRIPTOR(_timestamp), INTERVAL '1' SECOND, INTERVAL '5' SECOND)) \
              GROUP BY [user], window_start, window_end",
        ..TUMBLING
    },
    Query {
        name: "session",
        sql: "SELECT [user], window_start, window_end, COUNT(*) AS events, SUM(amount) AS total \
              FROM TABLE(SESSION(TABLE events PARTITION BY [user], DESCRIPTOR(_timestamp), INTERVAL '0.1' SECOND)) \
              GROUP BY [user], window_start, window_end",
        strategies: NO_PHASES,
        ..TUMBLING
    },
    Query {
        name: "join",
        sql: "SELECT e.[user], e.amount, o.amount AS other FROM events e JOIN others o \
              ON e.[user] = o.[user] AND o._timestamp BETWEEN e._timestamp AND e._timestamp + INTERVAL '0.01' SECOND",
        inputs: &[Input { topic: LEFT, ..EVENTS }, Input { name: "others", topic: OTHERS, ..EVENTS }],
        ..STATELESS
    },
    Query { name: "stateless, 2 tasks", tasks: 2, ..STATELESS },
    Query { name: "tumbling, 2 tasks", tasks: 2, ..TUMBLING },
];

/// What is asked for the first row: no window to wait for.
pub(super) const FIRST_ROW: Query = Query { sql: "SELECT [user], amount FROM events", ..STATELESS };

impl Query {
    /// How many events it reads.
    pub(super) fn events(&self, counts: &Counts) -> u64 {
        self.inputs.iter().map(|input| counts[input.topic]).sum()
    }

    /// The spec of tidemill's job, whose output is `output`. `check` is how much of a record in JSON must be well-formed.
    pub(super) fn spec(&self, kafka: &Broker, output: &str, check: &str) -> String {
        let mut spec = "name: bench-peers\ninputs:\n".to_owned();
        for Input { name, topic, columns } in self.inputs {
            let columns: Vec<_> = columns.iter().map(|(name, kind)| format!("{name}: {kind}")).collect();
            let format = match self.format {
                Format::Json => format!("format: {{json: {{check: {check}}}}}\n    schema: {{{}}}", columns.join(", ")),
                Format::Avro => format!("format: {{avro: {{schema_file: {}}}}}", root().join(AVRO_SCHEMA).display()),
            };
            let _ = write!(
                spec,
                "  {name}:\n    kafka: {{brokers: [\"{}\"], topic: {topic}, start: earliest}}\n    {format}\n",
                kafka.bootstrap(),
            );
        }
        spec + &format!("outputs:\n  rows: {output}\nquery: |\n  {}\n", self.sql)
    }

    /// Flink's job, whose rows go to a table with these options. Its watermark stays 2 ms behind: at 1 ms it may close a session between
    /// two records of one millisecond, the later of which still belongs to it.
    pub(super) fn flink(&self, kafka: &Broker, strategy: &str, sink: &str) -> flink::Job {
        let table = |Input { name, topic, columns }: &Input| {
            let columns: Vec<_> =
                columns.iter().map(|(name, kind)| format!("`{name}` {}", kind.to_uppercase())).collect();
            format!(
                "CREATE TABLE {name} ({}, _timestamp TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL, \
                 WATERMARK FOR _timestamp AS _timestamp - INTERVAL '0.002' SECOND) WITH ('connector' = 'kafka', \
                 'topic' = '{topic}', 'properties.bootstrap.servers' = '{}', 'scan.startup.mode' = 'earliest-offset', \
                 'scan.bounded.mode' = 'latest-offset', 'format' = '{}')",
                columns.join(", "),
                kafka.bootstrap(),
                match self.format {
                    Format::Json => "json",
                    Format::Avro => "avro",
                }
            )
        };
        let settings = [
            format!("SET 'parallelism.default' = '{}'", self.tasks),
            format!("SET 'table.optimizer.agg-phase-strategy' = '{strategy}'"),
            "SET 'table.local-time-zone' = 'UTC'".to_owned(),
        ];
        flink::Job {
            before: settings.into_iter().chain(self.inputs.iter().map(table)).collect(),
            statement: format!("CREATE TABLE output WITH ({sink}) AS {}", self.sql.replace(['[', ']'], "`")),
        }
    }

    /// Flink's rows as files of JSON.
    pub(super) fn flink_files(&self, kafka: &Broker, folder: &Path) -> flink::Job {
        let sink = format!("'connector' = 'filesystem', 'path' = 'file://{}', 'format' = 'json'", folder.display());
        self.flink(kafka, self.strategies[0], &sink)
    }
}
