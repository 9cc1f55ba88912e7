//! A session: it makes contact with what questions name, once, and answers them.

use std::{
    collections::HashMap,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arrow::{
    datatypes::FieldRef,
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::json;
use tidemill_connectors::{
    files::{self, list_files},
    kafka::{KafkaConnection, KafkaInput, Security, list_topics},
};
use tidemill_engine::{Clock, EngineError, ErrorKind};
use tidemill_queries::{
    Script,
    bounded::{AnswerError, Executor, ExecutorOptions, LogTable, Plan, Question, Reading, Rows},
};

use super::{
    error::SqlError,
    progress::Progress,
    table::{DeclaredTable, Topic, TopicTable, Transport},
};
use crate::{
    infer,
    run::{
        RunOptions, Stats,
        budget::FETCH_KIB_MAX,
        decoding::{self, FormatSchemas},
        inputs::{SAMPLE_RECORDS, SAMPLE_WITHIN, kafka_settings},
        security::Secrets,
    },
    spec::{self, Context, InputTransport, Job},
};

/// One part in this many of the memory is for records that were fetched ahead; the rest is for computing.
const QUEUE_SHARE: u64 = 4;
/// How far behind the largest timestamp a record may come, of topics whose producers stamp.
const OUT_OF_ORDER: spec::Duration = spec::Duration::from_secs(5);

/// What questions are asked of.
#[derive(Clone, Debug)]
pub enum Source {
    /// The inputs of a spec, by their names.
    Context(Box<Context>),
    /// The topics of a cluster without security, by theirs.
    Cluster {
        /// `host:port` of some brokers.
        brokers: Vec<String>,
        /// Name of the format of all topics; `None`: each is told from a sample.
        format: Option<String>,
    },
}

/// How a session works.
#[derive(Clone)]
pub struct SessionOptions {
    /// How long to wait for the first answer of a broker.
    pub wait: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Whether `COUNT(*)` may be answered from offsets, which count markers of transactions and compacted records too.
    pub approximate: bool,
}

/// See the module.
pub struct Session {
    source: Source,
    options: SessionOptions,
    executor: Executor,
    secrets: Arc<Secrets>,
    /// By name in lower case.
    topics: HashMap<String, Arc<Topic>>,
    /// All topics of the cluster.
    names: Option<Vec<String>>,
    memory: u64,
    workers: usize,
}

impl Session {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// A format that does not exist; a machine without threads for it.
    pub fn new(source: Source, options: SessionOptions) -> Result<Self, SqlError> {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let defaults;
        let context = match &source {
            Source::Context(context) => &**context,
            Source::Cluster { brokers, format } => {
                let format = format.as_deref().unwrap_or("json");
                defaults = topic_context(brokers, "topic", format)?;
                &defaults
            }
        };
        let workers = context.workers.map_or_else(cores, NonZero::get);
        let memory = context.memory.bytes();
        let secrets = Arc::new(Secrets::new(context.key_vault.clone()));
        let executor = Executor::new(ExecutorOptions {
            workers,
            memory: usize::try_from(memory - memory / QUEUE_SHARE).unwrap_or(usize::MAX),
            approximate: options.approximate,
        })?;
        Ok(Self { source, options, executor, secrets, topics: HashMap::new(), names: None, memory, workers })
    }

    /// Finds the mistakes of a bounded question that show without a connection.
    ///
    /// # Errors
    /// [`SqlError::Question`].
    pub fn check(&self, text: &str, parameters: &[(String, String)]) -> Result<(), SqlError> {
        let question = Question::parse(text).map_err(SqlError::Question)?;
        let Source::Context(context) = &self.source else { return Ok(()) };
        let mut tables: Vec<(String, Arc<dyn LogTable>)> = vec![];
        for name in question.tables() {
            let names: Vec<&str> = context.inputs.iter().map(|input| input.name.as_str()).collect();
            let Some(input) = context.inputs.iter().find(|input| input.name.eq_ignore_ascii_case(name)) else {
                return Err(SqlError::Question(question.unknown_table(name, &names)));
            };
            let Some(table) = DeclaredTable::of(input) else { return Ok(()) };
            tables.push((name.clone(), Arc::new(table)));
        }
        match self.executor.plan(&question, &tables, parameters) {
            Ok(_) => Ok(()),
            Err(AnswerError::Question(errors)) => Err(SqlError::Question(errors)),
            Err(error) => Err(error.into()),
        }
    }

    /// Plans a bounded question: finds its topics, asks where what it wants lies. `parameters` are the values of its `$names`.
    ///
    /// # Errors
    /// Mistakes of the question; topics that cannot be reached or sampled.
    pub fn sql(&mut self, text: &str, parameters: &[(String, String)]) -> Result<Answer, SqlError> {
        let question = Question::parse(text).map_err(SqlError::Question)?;
        let progress = Arc::<Progress>::default();
        let fetched_before = fetched_bytes(self.topics.values());
        let mut tables: Vec<(String, Arc<dyn LogTable>)> = vec![];
        for name in question.tables() {
            let Some(topic) = self.topic(name)? else {
                let names = self.tables()?;
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                return Err(AnswerError::Question(question.unknown_table(name, &names)).into());
            };
            tables.push((name.clone(), Arc::new(TopicTable::new(topic, Arc::clone(&progress)))));
        }
        let plan = self.executor.plan(&question, &tables, parameters)?;
        let topics = self.topics.values().cloned().collect();
        Ok(Answer { plan, progress, topics, fetched_before, explain: question.is_explain() })
    }

    /// The job of a continuous question, with the values of its `$names`; its rows go to stdout, or to [`RunOptions::rows`], and what it must
    /// write while it runs lies below `directory`. It is run with [`RunOptions::ephemeral`].
    ///
    /// # Errors
    /// Mistakes of the question that show without its columns; topics that cannot be reached or sampled.
    pub fn job(&mut self, text: &str, parameters: &[(String, String)], directory: &Path) -> Result<Job, SqlError> {
        let script = Script::parse_with(text, parameters).map_err(SqlError::Question)?;
        let context = match self.source.clone() {
            Source::Context(context) => *context,
            Source::Cluster { brokers, format } => {
                let mut context = topic_context(&brokers, "topic", format.as_deref().unwrap_or("json"))?;
                context.inputs.clear();
                for name in script.inputs() {
                    let Some(topic) = self.topic(&name)? else {
                        let message = format!("there is no such topic; available: {}", self.tables()?.join(", "));
                        return Err(EngineError::Source { input: name, kind: ErrorKind::User, message }.into());
                    };
                    let mut input = topic.spec.clone();
                    if let (InputTransport::Kafka(kafka), false) = (&mut input.transport, topic.log_append) {
                        tracing::info!(
                            "`{name}`: the broker does not stamp its records, so event time is their producer's"
                        );
                        kafka.timestamp = spec::Timestamp::CreateTime { out_of_order: OUT_OF_ORDER };
                    }
                    context.inputs.push(input);
                }
                context
            }
        };
        Ok(context.job(text, script, PathBuf::from(directory)))
    }

    /// How a job of this session is run; `stop` ends it.
    #[must_use]
    pub fn run_options(&self, stop: Arc<AtomicBool>, stats: Arc<Stats>) -> RunOptions {
        RunOptions {
            from_start: true,
            ephemeral: true,
            workers: Some(self.workers),
            stop,
            stats,
            ..RunOptions::new(self.options.wait, Arc::clone(&self.options.clock))
        }
    }

    /// Names of the tables: the inputs of the context, or the cluster's topics.
    ///
    /// # Errors
    /// A cluster that cannot be reached.
    pub fn tables(&mut self) -> Result<Vec<String>, SqlError> {
        match &self.source {
            Source::Context(context) => Ok(context.inputs.iter().map(|input| input.name.clone()).collect()),
            Source::Cluster { brokers, .. } => {
                if self.names.is_none() {
                    let connection = KafkaConnection { brokers: brokers.clone(), security: Security::default() };
                    let name = brokers.join(",");
                    let names = list_topics(&name, &connection, &self.options.clock, self.options.wait)?;
                    self.names = Some(names);
                }
                Ok(self.names.clone().unwrap_or_default())
            }
        }
    }

    /// Forgets what is known of topics: the next question looks again.
    pub fn refresh(&mut self) {
        self.names = None;
        self.topics.clear();
    }

    /// The columns of a table, each with its type and values of a sample; `None` without such a table.
    ///
    /// # Errors
    /// A topic that cannot be reached or sampled.
    pub fn describe(&mut self, name: &str) -> Result<Option<Vec<ColumnDescription>>, SqlError> {
        let Some(topic) = self.topic(name)? else { return Ok(None) };
        let shown = |name: &str| -> Vec<String> {
            let Some(column) = topic.sample.as_ref().and_then(|sample: &RecordBatch| sample.column_by_name(name))
            else {
                return vec![];
            };
            let format = FormatOptions::new().with_null("NULL");
            let Ok(values) = ArrayFormatter::try_new(column, &format) else { return vec![] };
            (0..column.len()).map(|row| values.value(row).to_string()).collect()
        };
        let fields = topic.columns.schema.fields().iter();
        let column = |field: &FieldRef| ColumnDescription {
            name: field.name().clone(),
            data_type: infer::type_name(field.data_type()),
            samples: shown(field.name()),
        };
        Ok(Some(fields.map(column).collect()))
    }

    /// Names of the columns of tables that were read before, and of the functions of questions.
    #[must_use]
    pub fn words(&self) -> (Vec<String>, Vec<String>) {
        let columns = self.topics.values().flat_map(|topic| topic.columns.schema.fields().iter());
        let mut columns: Vec<String> = columns.map(|field| field.name().clone()).collect();
        columns.sort();
        columns.dedup();
        (columns, self.executor.functions())
    }

    /// The table of this name, letter by letter or else in any case. One that was not there is looked for again.
    fn topic(&mut self, name: &str) -> Result<Option<Arc<Topic>>, SqlError> {
        let were_known = self.names.is_some();
        let mut found = named(&self.tables()?, name);
        if found.is_none() && were_known {
            self.names = None;
            found = named(&self.tables()?, name);
        }
        let Some(name) = found else { return Ok(None) };
        if let Some(topic) = self.topics.get(&name) {
            return Ok(Some(Arc::clone(topic)));
        }
        let topic = match &self.source {
            Source::Context(context) => {
                let Some(input) = context.inputs.iter().find(|input| input.name == name) else { return Ok(None) };
                self.connect(input)?
            }
            Source::Cluster { brokers, format } => self.connect_unknown(brokers, &name, format.as_deref())?,
        };
        let topic = Arc::new(topic);
        self.topics.insert(name, Arc::clone(&topic));
        Ok(Some(topic))
    }

    fn connect(&self, input: &spec::Input) -> Result<Topic, SqlError> {
        let options = self.run_options(Arc::default(), Arc::default());
        let (transport, payloads) = match &input.transport {
            InputTransport::Kafka(kafka) => {
                let mut settings = kafka_settings(input, kafka, self.queue_kib(), &self.secrets, &options)?;
                settings.accept_create_time = true; // a question has no event time
                let connected = KafkaInput::connect(settings, Arc::clone(&options.clock), options.wait)?;
                let payloads = connected.sample(SAMPLE_RECORDS, SAMPLE_WITHIN)?;
                (Transport::Kafka(connected), payloads)
            }
            InputTransport::File(file) => {
                let list = list_files(&input.name, &file.path)?;
                let payloads = files::sample(&input.name, &list, decoding::file_format(input), SAMPLE_RECORDS)?;
                (Transport::Files(list), payloads)
            }
        };
        let schemas = FormatSchemas::learn(input, &self.secrets, &options)?;
        Ok(Topic::new(input.clone(), transport, schemas, payloads, Arc::clone(&options.clock))?)
    }

    /// A topic of which nothing is said but its name.
    fn connect_unknown(&self, brokers: &[String], topic: &str, format: Option<&str>) -> Result<Topic, SqlError> {
        let options = self.run_options(Arc::default(), Arc::default());
        let plain = one_input(topic_context(brokers, topic, format.unwrap_or("json"))?, topic)?;
        let InputTransport::Kafka(kafka) = &plain.transport else {
            return Err(no_input(topic).into());
        };
        let mut settings = kafka_settings(&plain, kafka, self.queue_kib(), &self.secrets, &options)?;
        settings.accept_create_time = true;
        let connected = KafkaInput::connect(settings, Arc::clone(&options.clock), options.wait)?;
        let payloads = connected.sample(SAMPLE_RECORDS, SAMPLE_WITHIN)?;
        let input = match format {
            Some(_) => plain,
            None if payloads.iter().all(Vec::is_empty) => {
                tracing::info!("`{topic}` is empty: only the columns that every topic has are known");
                plain
            }
            None => {
                let failure = |message| EngineError::Source { input: topic.to_owned(), kind: ErrorKind::User, message };
                let yaml = infer::of_payloads(brokers, topic, &payloads).map_err(failure)?;
                one_input(spec::parse_context(&yaml, Path::new(""), topic)?, topic)?
            }
        };
        let schemas = FormatSchemas::learn(&input, &self.secrets, &options)?;
        Ok(Topic::new(input, Transport::Kafka(connected), schemas, payloads, Arc::clone(&options.clock))?)
    }

    fn queue_kib(&self) -> u64 {
        (self.memory / QUEUE_SHARE / 1024 / self.workers as u64).min(FETCH_KIB_MAX)
    }
}

fn fetched_bytes<'t>(topics: impl IntoIterator<Item = &'t Arc<Topic>>) -> Option<u64> {
    topics.into_iter().map(|topic| topic.fetched_bytes()).sum()
}

/// Of some names the one that is meant: letter by letter, or else in any case when there is only one such.
fn named(names: &[String], name: &str) -> Option<String> {
    let mut alike = names.iter().filter(|other| other.eq_ignore_ascii_case(name));
    let exact = names.iter().find(|other| *other == name);
    exact.or_else(|| alike.next().filter(|_| alike.next().is_none())).cloned()
}

/// The context of one topic that is read as it is.
fn topic_context(brokers: &[String], topic: &str, format: &str) -> Result<Context, SqlError> {
    // JSON is YAML, and quotes whatever a name holds.
    let spec = json!({"inputs": {topic: {"kafka": {"brokers": brokers, "topic": topic}, "format": format}}});
    Ok(spec::parse_context(&spec.to_string(), Path::new(""), "command line")?)
}

fn one_input(context: Context, topic: &str) -> Result<spec::Input, EngineError> {
    context.inputs.into_iter().next().ok_or_else(|| no_input(topic))
}

fn no_input(topic: &str) -> EngineError {
    let message = "no input was made of the topic".to_owned();
    EngineError::Source { input: topic.to_owned(), kind: ErrorKind::Bug, message }
}

/// A column for a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDescription {
    /// Its name.
    pub name: String,
    /// Its type, as a spec has it.
    pub data_type: String,
    /// Values of a sample; none of what a record has beside its payload.
    pub samples: Vec<String>,
}

/// A bounded question that was planned.
pub struct Answer {
    plan: Plan,
    progress: Arc<Progress>,
    /// All that the session knows.
    topics: Vec<Arc<Topic>>,
    /// By the session, before the question.
    fetched_before: Option<u64>,
    explain: bool,
}

impl Answer {
    /// What will be read, table by table. An EXPLAIN reads nothing.
    #[must_use]
    pub fn readings(&self) -> &[Reading] {
        if self.explain { &[] } else { self.plan.readings() }
    }

    /// Whether its rows are lines that say what would be read.
    #[must_use]
    pub fn is_explain(&self) -> bool {
        self.explain
    }

    /// How far the reading is.
    #[must_use]
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Bytes that brokers have sent for the question so far: samples of its topics, where it was the first of the session, and whatever else
    /// was in their answers. `None` where librdkafka reads, which does not tell.
    #[must_use]
    pub fn fetched_bytes(&self) -> Option<u64> {
        Some(fetched_bytes(&self.topics)?.saturating_sub(self.fetched_before?))
    }

    /// The rows; read once. `stop` ends them with an error.
    ///
    /// # Errors
    /// When reading cannot begin.
    pub fn rows(&self, stop: Arc<AtomicBool>) -> Result<Rows, SqlError> {
        Ok(self.plan.execute(stop)?)
    }
}
