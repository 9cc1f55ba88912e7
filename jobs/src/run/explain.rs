//! What a job is going to do, without running it: `tidemill explain`. Connects to nothing; where an input has no declared
//! columns, those that a start has pinned are taken, or those of a file.

use arrow::datatypes::SchemaRef;
use tidemill_connectors::{
    files::{self, list_files},
    kafka::{ReadPath, SaslSettings},
};
use tidemill_engine::dataflow::{
    describe::{StepDescription, span},
    plan::{Dataflow, InputColumns},
    stage::reach_back,
};
use tidemill_queries::{InputTable, Script};

use super::{
    commit::REPLAY_AT_MOST,
    decoding,
    error::RunError,
    inputs::{SAMPLE_RECORDS, created_schema, fetch_of},
    pinned, plan,
};
use crate::{
    epoch::store::Store,
    infer::type_name,
    spec::{self, InputTransport, Job, StateStore},
};

/// What a job does.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The inputs that the query reads, in the order of the spec.
    pub inputs: Vec<InputExplanation>,
    /// The steps; none as long as the columns of an input are not known.
    pub steps: Option<Vec<StepDescription>>,
    /// How many workers read, and what of it runs beside them.
    pub parallelism: String,
    /// How a start after a stop or a crash goes on.
    pub restart: String,
}

/// An input.
#[derive(Clone, Debug)]
pub struct InputExplanation {
    /// Its name.
    pub name: String,
    /// Whether it is reference data.
    pub reference: bool,
    /// Where the columns come from.
    pub origin: Origin,
    /// All columns that are known.
    pub known: Columns,
    /// Those that are decoded, because the query names them.
    pub decoded: Columns,
    /// Properties of records beside their payload that the query names.
    pub metadata: Vec<&'static str>,
    /// How its records are fetched, and why so; none for files.
    pub fetch: Option<String>,
}

/// Columns, each with its type as a spec writes it.
pub type Columns = Vec<(String, String)>;

/// Where the columns of an input come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The spec, the format's own schema, or a `CREATE TABLE`.
    Declared,
    /// A sample that the first start took; they stay until `--reinfer`.
    Pinned,
    /// A sample of the files as they are now.
    Sampled,
    /// They are learned at the first start.
    Unknown,
}

impl Origin {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Pinned => "inferred and pinned by the first start",
            Self::Sampled => "inferred from the files",
            Self::Unknown => "learned at the first start",
        }
    }
}

/// Explains a job.
///
/// # Errors
/// Mistakes of the query; files or a state that cannot be read.
pub fn explain(job: &Job) -> Result<Explanation, RunError> {
    let query_error = |errors| RunError::Query { query: Box::new(job.query.clone()), errors };
    let script = &job.query.script;
    let read = script.inputs();
    let read: Vec<_> =
        job.inputs.iter().filter(|input| read.iter().any(|n| n.eq_ignore_ascii_case(&input.name))).collect();
    let store = existing_store(job)?;
    let mut tables = vec![];
    let mut inputs = vec![];
    for input in read {
        let (schema, origin) = columns(script, input, store.as_ref())?;
        inputs.push(InputExplanation {
            name: input.name.clone(),
            reference: input.reference.is_some(),
            origin,
            known: schema.as_ref().map_or(vec![], named),
            decoded: vec![],
            metadata: vec![],
            fetch: fetch(input),
        });
        tables.push(schema.map(|schema| InputTable {
            name: input.name.clone(),
            schema,
            sampled: (origin != Origin::Declared).then_some(SAMPLE_RECORDS),
            time_column: None,
            exact: script.declared_tables().iter().any(|t| t.name.eq_ignore_ascii_case(&input.name)),
            reference: input.reference.is_some(),
        }));
    }
    let dataflow = match tables.into_iter().collect::<Option<Vec<_>>>() {
        Some(tables) => Some(plan(job, script, &tables).map_err(query_error)?),
        None => None,
    };
    let decoded = |dataflow: &Dataflow| -> Vec<InputColumns> {
        dataflow.inputs.iter().chain(dataflow.tables.iter().map(|table| &table.columns)).cloned().collect()
    };
    for columns in dataflow.iter().flat_map(decoded) {
        if let Some(input) = inputs.iter_mut().find(|input| input.name == columns.name) {
            input.decoded = named(&columns.payload);
            input.metadata = columns.metadata.iter().map(|m| m.name()).collect();
        }
    }
    let steps = dataflow.as_ref().map(Dataflow::describe);
    let workers = match job.workers {
        Some(workers) => format!("{workers} workers"),
        None => "a worker for each core".to_owned(),
    };
    let parallelism = format!("{workers}, which share the partitions of each input; one merge thread");
    Ok(Explanation { inputs, steps, parallelism, restart: restart(job, dataflow.as_ref()) })
}

/// The job's state where there is some: a directory is not made for the sake of a look.
fn existing_store(job: &Job) -> Result<Option<Store>, RunError> {
    match &job.state.store {
        StateStore::Directory(path) if path.join(&job.name).is_dir() => {
            Ok(Some(Store::open(&job.state.store, &job.name)?))
        }
        _ => Ok(None),
    }
}

fn columns(
    script: &Script,
    input: &spec::Input,
    store: Option<&Store>,
) -> Result<(Option<SchemaRef>, Origin), RunError> {
    let created = script.declared_tables().iter().find(|table| table.name.eq_ignore_ascii_case(&input.name));
    let declared = input.schema.clone().or_else(|| created.and_then(|table| created_schema(table, None)));
    if declared.is_some() {
        return Ok((declared, Origin::Declared));
    }
    let pinned = match store {
        Some(store) => pinned::load(store, &input.name)?,
        None => None,
    };
    let (sample, origin) = match (pinned, &input.transport) {
        (Some(schema), _) => (Some(schema), Origin::Pinned),
        (None, InputTransport::File(file)) => {
            let files = list_files(&input.name, &file.path)?;
            let payloads = files::sample(&input.name, &files, decoding::file_format(input), SAMPLE_RECORDS)?;
            // Files that cannot be read are the run's concern.
            let columns = decoding::infer(&input.format, &payloads).unwrap_or(None);
            let origin = if columns.is_some() { Origin::Sampled } else { Origin::Unknown };
            (columns, origin)
        }
        (None, InputTransport::Kafka(_)) => (None, Origin::Unknown),
    };
    let created = created.zip(sample.as_ref()).and_then(|(table, sample)| created_schema(table, Some(sample)));
    Ok((created.or(sample), origin))
}

fn named(schema: &SchemaRef) -> Columns {
    schema.fields().iter().map(|f| (f.name().clone(), type_name(f.data_type()))).collect()
}

fn fetch(input: &spec::Input) -> Option<String> {
    let InputTransport::Kafka(kafka) = &input.transport else { return None };
    let kerberos = matches!(kafka.security.sasl, Some(SaslSettings::Gssapi { .. }));
    Some(ReadPath::planned(fetch_of(kafka), kerberos).before_contact())
}

fn restart(job: &Job, dataflow: Option<&Dataflow>) -> String {
    let epoch = span(job.state.epoch.micros());
    let Some(dataflow) = dataflow else {
        return format!("goes on at the last epoch, one each {epoch}");
    };
    let snapshot = format!(
        "a snapshot each {} takes their place where they are more than {REPLAY_AT_MOST} records",
        span(job.state.snapshot.micros())
    );
    match reach_back(dataflow) {
        0 => format!("goes on at the last epoch, one each {epoch}; nothing is read again, as no step keeps rows"),
        i64::MAX => format!(
            "goes on at the last epoch, one each {epoch}; records that open sessions need are read again, {snapshot}"
        ),
        reach => format!(
            "goes on at the last epoch, one each {epoch}; the records of the {} before are read again for what was open, {snapshot}",
            // To the second: how much a row may lie before its window's end is no news.
            span((reach / 1_000_000).max(1) * 1_000_000)
        ),
    }
}
