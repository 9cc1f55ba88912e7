//! Plans a question over given tables and runs it.

use std::sync::{Arc, atomic::AtomicBool};

use arrow::{
    array::StringArray,
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    common::{DataFusionError, ParamValues, ScalarValue, TableReference, metadata::ScalarAndMetadata},
    execution::{SessionStateBuilder, TaskContext, context::SessionContext, runtime_env::RuntimeEnvBuilder},
    physical_plan::{ExecutionPlan, execute_stream},
    prelude::SessionConfig,
    sql::parser::Statement as AnyStatement,
};
use tokio::runtime::{self, Runtime};

use super::{
    error::AnswerError,
    explain,
    log::{LogPartition, LogTable, Stretch},
    names,
    newest::NewestFirst,
    question::Question,
    rows::Rows,
    scan::{LogScan, Table, scans_of},
};
use crate::parameters::{self, Value};

/// How questions are run.
#[derive(Clone, Copy, Debug)]
pub struct ExecutorOptions {
    /// Threads that compute, and scans of one table at the same time.
    pub workers: usize,
    /// Bytes that sorting, joining and grouping may hold; what is more goes to temporary files where it can.
    pub memory: usize,
    /// Whether `COUNT(*)` may be answered from offsets, which count markers of transactions and compacted records too.
    pub approximate: bool,
}

/// See the module. Lives as long as its answers are read.
#[derive(Debug)]
pub struct Executor {
    runtime: Arc<Runtime>,
    options: ExecutorOptions,
}

impl Executor {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`AnswerError::Machine`].
    pub fn new(options: ExecutorOptions) -> Result<Self, AnswerError> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(options.workers.max(1))
            .thread_name("question")
            .enable_time()
            .build()
            .map_err(|error| AnswerError::Machine { message: error.to_string() })?;
        Ok(Self { runtime: Arc::new(runtime), options })
    }

    /// Names of the functions that questions can call, sorted.
    #[must_use]
    pub fn functions(&self) -> Vec<String> {
        let state = SessionContext::new().state();
        let scalar = state.scalar_functions().keys();
        let mut names: Vec<String> =
            scalar.chain(state.aggregate_functions().keys()).chain(state.window_functions().keys()).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// Plans a question: its tables by the names that it has for them, and the values of its `$parameters`. The tables are asked where what
    /// is wanted lies; nothing is read yet.
    ///
    /// # Errors
    /// [`AnswerError::Question`] with the mistakes; [`AnswerError::Log`] when a table cannot be asked.
    pub fn plan(
        &self,
        question: &Question,
        tables: &[(String, Arc<dyn LogTable>)],
        parameters: &[(String, String)],
    ) -> Result<Plan, AnswerError> {
        let mut statement = question.statement.clone();
        let mut known = vec![];
        tables.iter().for_each(|(_, log)| names::column_names(log.schema().fields(), &mut known));
        names::spell(&mut statement, known);
        let context = self.context()?;
        for (name, log) in tables {
            let table = Table { log: Arc::clone(log), approximate: self.options.approximate };
            context
                .register_table(TableReference::bare(name.as_str()), Arc::new(table))
                .map_err(|error| AnswerError::of_plan(&error))?;
        }
        let state = context.state();
        let of_plan = |error: DataFusionError| AnswerError::of_plan(&error);
        let statement = AnyStatement::Statement(Box::new(statement));
        let logical = self.runtime.block_on(state.statement_to_plan(statement)).map_err(of_plan)?;
        let names: Vec<String> = logical.get_parameter_names().map_err(of_plan)?.into_iter().collect();
        parameters::check(&names, parameters)?;
        let values = parameters.iter().map(|(name, value)| (name.clone(), ScalarAndMetadata::from(scalar(value))));
        let logical = logical.with_param_values(ParamValues::Map(values.collect())).map_err(of_plan)?;
        let physical = self.runtime.block_on(state.create_physical_plan(&logical)).map_err(of_plan)?;
        Ok(Plan::new(physical, context.task_ctx(), question.explain, Arc::clone(&self.runtime)))
    }

    fn context(&self) -> Result<SessionContext, AnswerError> {
        let mut config = SessionConfig::new().with_target_partitions(self.options.workers.max(1));
        let parser = &mut config.options_mut().sql_parser;
        parser.enable_ident_normalization = false; // the names of topics and columns differ in case
        parser.collect_spans = true;
        parser.map_string_types_to_utf8view = false;
        let environment = RuntimeEnvBuilder::new()
            .with_memory_limit(self.options.memory, 1.0)
            .build_arc()
            .map_err(|error| AnswerError::Machine { message: error.strip_backtrace() })?;
        let state = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(environment)
            .with_physical_optimizer_rule(Arc::new(NewestFirst))
            .build();
        Ok(SessionContext::new_with_state(state))
    }
}

fn scalar(text: &str) -> ScalarValue {
    match Value::of(text) {
        Value::Integer(number) => ScalarValue::from(number),
        Value::Float(number) => ScalarValue::from(number),
        Value::Truth(truth) => ScalarValue::from(truth),
        Value::Text(text) => ScalarValue::from(text.as_str()),
    }
}

/// What a plan reads of one table.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The table's name.
    pub table: String,
    /// Its partitions.
    pub partitions: Vec<LogPartition>,
    /// Where it reads.
    pub stretches: Vec<Stretch>,
    /// Records at most, where offsets say it.
    pub records: Option<u64>,
    /// About how many bytes that is.
    pub bytes: u64,
    /// Whether records are only counted.
    pub counts: bool,
    /// Of each partition only its last rows.
    pub newest: Option<usize>,
    /// Why it is not less.
    pub notes: Vec<String>,
}

/// A question that can be run.
pub struct Plan {
    physical: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    explain: bool,
    runtime: Arc<Runtime>,
    readings: Vec<Reading>,
}

impl Plan {
    fn new(physical: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>, explain: bool, runtime: Arc<Runtime>) -> Self {
        let mut scans = vec![];
        scans_of(&physical, &mut scans);
        let reading = |scan: &LogScan| {
            let (records, bytes) = scan.size();
            Reading {
                table: scan.log.name().to_owned(),
                partitions: scan.log.partitions().to_vec(),
                stretches: scan.found.stretches.clone(),
                records,
                bytes,
                counts: scan.counts(),
                newest: scan.newest,
                notes: scan.found.notes.clone(),
            }
        };
        let readings = scans.iter().map(reading).collect();
        Self { physical, context, explain, runtime, readings }
    }

    /// What it reads, table by table.
    #[must_use]
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }

    /// The columns of its rows.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        if self.explain { explained_schema() } else { self.physical.schema() }
    }

    pub(super) fn physical(&self) -> &Arc<dyn ExecutionPlan> {
        &self.physical
    }

    /// Runs it; `stop` ends it with [`AnswerError::Interrupted`]. An EXPLAIN gives its lines in a column `plan`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn execute(&self, stop: Arc<AtomicBool>) -> Result<Rows, AnswerError> {
        if self.explain {
            let lines = StringArray::from(explain::lines(self));
            let batch = RecordBatch::try_new(explained_schema(), vec![Arc::new(lines)])
                .map_err(|error| AnswerError::of_rows(error.into()))?;
            return Ok(Rows::of_batch(batch));
        }
        let _entered = self.runtime.enter();
        let stream =
            execute_stream(Arc::clone(&self.physical), Arc::clone(&self.context)).map_err(AnswerError::of_rows)?;
        Ok(Rows::of_stream(stream, Arc::clone(&self.runtime), stop))
    }
}

fn explained_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("plan", DataType::Utf8, false)]))
}
