//! A script over given inputs and outputs as a dataflow.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use sqlparser::{
    ast::{Ident, Query, SetExpr, SetOperator, SetQuantifier, TableAlias},
    tokenizer::Span,
};
use tidemill_engine::dataflow::plan::{Dataflow, NodeId, TimeBounds};

use crate::{
    coercion::{common_type, type_name},
    error::{QueryError, QueryErrors, all, both, reason},
    functions::conversion::{Failure, convert},
    graph::{Graph, Step},
    javascript::UserFunctions,
    reference::ReferenceView,
    sampled,
    scope::{Scope, schema_of},
    script::{Script, StatementInto, check_query},
    tables::Relation,
    typed::Typed,
};

/// An input of the spec as a query sees it.
#[derive(Clone, Debug)]
pub struct InputTable {
    /// Name in the spec; queries may write it in any case.
    pub name: String,
    /// Columns of the payload, declared or inferred, of the types of [`tidemill_engine`].
    pub schema: SchemaRef,
    /// How many records the schema was inferred from; `None` when it was declared.
    pub sampled: Option<usize>,
    /// The column that gives the event time where the query has no TIMESTAMP BY; `None` means arrival.
    pub time_column: Option<String>,
    /// Whether its columns are those of a `CREATE TABLE`, whose types nothing is converted to.
    pub exact: bool,
    /// Whether it is reference data: a table that streams are joined with, without a time of its own.
    pub reference: bool,
}

impl InputTable {
    /// A stream with declared columns, whose event time is the arrival.
    #[must_use]
    pub fn declared(name: &str, schema: SchemaRef) -> Self {
        Self { name: name.to_owned(), schema, sampled: None, time_column: None, exact: false, reference: false }
    }
}

/// Which of ASA's levels of compatibility a query is written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompatibilityLevel {
    /// 1.0: as 1.1, and columns of outputs are named in lower case.
    V1_0,
    /// 1.1: booleans of the payload are bigints.
    V1_1,
    /// 1.2: booleans are bits.
    #[default]
    V1_2,
}

/// What a plan depends on besides the text.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Policies of TIMESTAMP BY; `None`: nothing is late or early, and windows close at the end of the input.
    pub time: Option<TimeBounds>,
    /// How far, in microseconds, the watermark of a standard table function stays behind the largest time seen. `None`:
    /// as `time` says.
    pub standard_delay: Option<i64>,
    /// Level of compatibility.
    pub compatibility: CompatibilityLevel,
    /// What `udf.name` and `uda.name` call.
    pub functions: UserFunctions,
}

/// Plans a script. `outputs` are the names of the spec's outputs; they become [`Dataflow::outputs`] as they are.
///
/// A statement without INTO goes to the only output, with several to one named `output`.
///
/// # Errors
/// On unknown names, types that do not fit and whatever is not supported: all of them, with their places.
pub fn plan(
    script: &Script,
    inputs: &[InputTable],
    outputs: &[String],
    settings: &Settings,
) -> Result<Dataflow, QueryErrors> {
    let inputs: Vec<InputTable> = inputs.iter().map(|input| sampled::with_named_fields(input, &script.paths)).collect();
    let mut planner = Planner {
        tables: &inputs,
        settings,
        graph: Graph::default(),
        readers: HashMap::new(),
        steps: HashMap::new(),
        views: HashMap::new(),
    };
    let steps = all(script.steps.iter().map(|step| planner.add_step(&step.alias, &step.query)));
    let statements = all(script.statements.iter().map(|s| planner.statement(s, outputs)));
    both(steps, statements).map_err(QueryErrors::sorted)?;
    planner
        .graph
        .finish(&inputs, outputs)
        .map_err(|e| QueryError::at(Span::empty(), format!("cannot plan the query: {}", reason(&e))).into())
}

pub(crate) struct Planner<'a> {
    pub(crate) tables: &'a [InputTable],
    pub(crate) settings: &'a Settings,
    pub(crate) graph: Graph,
    /// Input nodes by input and time.
    pub(crate) readers: HashMap<(usize, String), NodeId>,
    /// Steps by lower-case name; `None` for one with mistakes, which are reported where it is defined.
    steps: HashMap<String, Option<Relation>>,
    /// Steps over reference data, by lower-case name.
    views: HashMap<String, ReferenceView>,
}

impl Planner<'_> {
    fn add_step(&mut self, alias: &TableAlias, query: &Query) -> Result<(), QueryErrors> {
        let name = &alias.name;
        if let Some(column) = alias.columns.first() {
            return Err(QueryError::unsupported(column.name.span, "a step with names for its columns").into());
        }
        match self.reference_view(query) {
            Ok(None) => {}
            Ok(Some(view)) => {
                self.views.insert(name.value.to_lowercase(), view);
                return Ok(());
            }
            Err(errors) => {
                self.steps.insert(name.value.to_lowercase(), None);
                return Err(errors);
            }
        }
        let planned = self.query(query);
        let (relation, result) = match planned {
            Ok(mut relation) => {
                relation.scope.relations = vec![vec![name.value.clone()]];
                (Some(relation), Ok(()))
            }
            Err(errors) => (None, Err(errors)),
        };
        if self.steps.insert(name.value.to_lowercase(), relation).is_some() {
            return Err(QueryError::at(name.span, format!("two steps are named `{}`", name.value)).into());
        }
        result
    }

    fn statement(&mut self, statement: &StatementInto, outputs: &[String]) -> Result<(), QueryErrors> {
        let output = output(statement, outputs).map_err(QueryErrors::from);
        let (output, relation) = both(output, self.set(&statement.body))?;
        let schema = self.graph.schema(relation.node);
        let (node, schema) = match self.settings.compatibility {
            CompatibilityLevel::V1_0 => self.in_lower_case(relation.node, &schema),
            CompatibilityLevel::V1_1 | CompatibilityLevel::V1_2 => (relation.node, schema),
        };
        let columns: Vec<usize> = (0..schema.fields().len() - 1).collect();
        let schema = schema.project(&columns).map_err(|e| QueryError::at(statement.span, e.to_string()))?;
        self.graph.add(Step::Output(output), vec![node], schema.into());
        Ok(())
    }

    /// The same rows with the names of their columns in lower case.
    fn in_lower_case(&mut self, node: NodeId, schema: &Schema) -> (NodeId, SchemaRef) {
        let last = schema.fields().len() - 1;
        let names = schema.fields()[..last].iter().map(|f| (f.name().to_lowercase(), f.data_type().clone()));
        let lower = schema_of(names);
        let list = (0..).zip(lower.fields()).map(|(i, f)| Arc::new(Column::new(f.name(), i)) as Arc<dyn PhysicalExpr>);
        (self.graph.add(Step::Project(list.collect()), vec![node], Arc::clone(&lower)), lower)
    }

    /// A query of a step or a subquery.
    pub(crate) fn query(&mut self, query: &Query) -> Result<Relation, QueryErrors> {
        check_query(query)?;
        if let Some(with) = &query.with {
            return Err(QueryError::unsupported(with.with_token.0.span, "WITH inside a query").into());
        }
        self.set(&query.body)
    }

    /// SELECTs joined by UNION, which keeps duplicates.
    fn set(&mut self, body: &SetExpr) -> Result<Relation, QueryErrors> {
        let mut parts = Vec::new();
        let mut rest = body;
        while let SetExpr::SetOperation { op, left, right, set_quantifier } = rest {
            if !matches!(set_quantifier, SetQuantifier::None | SetQuantifier::All) {
                let message = format!("{op} {set_quantifier}");
                return Err(QueryError::unsupported(first_place(right), message).into());
            }
            if *op != SetOperator::Union {
                return Err(
                    QueryError::at(first_place(right), format!("{op} is not supported in a streaming query")).into()
                );
            }
            parts.push(right.as_ref());
            rest = left;
        }
        parts.push(rest);
        let relations = all(parts.into_iter().rev().map(|part| {
            let relation = match part {
                SetExpr::Select(select) => self.select(select)?,
                SetExpr::Query(query) => self.query(query)?,
                SetExpr::SetOperation { .. } => self.set(part)?,
                _ => return Err(QueryErrors::from(QueryError::at(Span::empty(), "expected SELECT"))),
            };
            Ok((relation, first_place(part)))
        }))?;
        self.union(relations)
    }

    fn union(&mut self, mut parts: Vec<(Relation, Span)>) -> Result<Relation, QueryErrors> {
        if parts.len() == 1
            && let Some((relation, _)) = parts.pop()
        {
            return Ok(relation);
        }
        let columns = union_columns(&parts)?;
        let schema = schema_of(columns.iter().cloned());
        let mut nodes = Vec::with_capacity(parts.len());
        for (relation, span) in parts {
            let mut list = Vec::with_capacity(columns.len() + 1);
            for (have, (_, data_type)) in relation.scope.columns.iter().zip(&columns) {
                let value = Typed::column(&have.name, have.index, have.data_type.clone(), span);
                list.push(convert(value, data_type, Failure::Error)?.expr);
            }
            list.push(relation.scope.time(span).expr);
            nodes.push(if self.graph.schema(relation.node) == schema {
                relation.node
            } else {
                self.graph.add(Step::Project(list), vec![relation.node], schema.clone())
            });
        }
        let node = self.graph.add(Step::Union, nodes, schema.clone());
        Ok(Relation { node, scope: self.scope_of(&schema, vec![]), window: None })
    }

    /// The scope of a node whose schema ends with the event time.
    pub(crate) fn scope_of(&self, schema: &Schema, names: Vec<String>) -> Scope {
        Scope { functions: self.settings.functions.clone(), ..Scope::of(schema, names) }
    }

    /// The step over reference data of this name, if there is one by now.
    pub(crate) fn view(&self, name: &Ident) -> Option<&ReferenceView> {
        self.views.get(&name.value.to_lowercase())
    }

    /// The step of this name, if there is one by now.
    pub(crate) fn step(&self, name: &Ident) -> Result<Option<Relation>, QueryErrors> {
        match self.steps.get(&name.value.to_lowercase()) {
            None => Ok(None),
            Some(Some(step)) => Ok(Some(step.clone())),
            Some(None) => Err(QueryErrors::reported()),
        }
    }

    pub(crate) fn input(&self, name: &Ident) -> Result<usize, QueryError> {
        let exact = self.tables.iter().position(|t| t.name == name.value);
        exact.or_else(|| self.tables.iter().position(|t| t.name.eq_ignore_ascii_case(&name.value))).ok_or_else(|| {
            let known: Vec<&str> =
                self.tables.iter().map(|t| t.name.as_str()).chain(self.steps.keys().map(String::as_str)).collect();
            QueryError::unknown(name.span, "input", &name.value, &known)
        })
    }
}

/// Where a SELECT starts.
pub(crate) fn first_place(body: &SetExpr) -> Span {
    match body {
        SetExpr::Select(select) => select.select_token.0.span,
        SetExpr::Query(query) => first_place(&query.body),
        SetExpr::SetOperation { left, .. } => first_place(left),
        _ => Span::empty(),
    }
}

/// Names of the first part, and the types that hold the values of all.
fn union_columns(parts: &[(Relation, Span)]) -> Result<Vec<(String, DataType)>, QueryError> {
    let mut columns: Vec<(String, DataType)> = Vec::new();
    for (i, (relation, span)) in parts.iter().enumerate() {
        let found = &relation.scope.columns;
        if i == 0 {
            columns = found.iter().map(|c| (c.name.clone(), c.data_type.clone())).collect();
            continue;
        }
        if found.len() != columns.len() {
            return Err(QueryError::at(
                *span,
                format!("this part of the UNION has {} columns, the first has {}", found.len(), columns.len()),
            ));
        }
        for ((name, data_type), c) in columns.iter_mut().zip(found) {
            *data_type = common_type(data_type, &c.data_type).ok_or_else(|| {
                let (first, here) = (type_name(data_type), type_name(&c.data_type));
                QueryError::at(
                    *span,
                    format!("column `{name}` of the UNION is {first} in one part and {here} in another"),
                )
                .help("CAST one of them")
            })?;
        }
    }
    Ok(columns)
}

/// Index of the output that a statement writes to.
fn output(statement: &StatementInto, outputs: &[String]) -> Result<usize, QueryError> {
    let known: Vec<&str> = outputs.iter().map(String::as_str).collect();
    match &statement.into {
        Some((name, span)) => outputs
            .iter()
            .position(|o| o == name)
            .or_else(|| outputs.iter().position(|o| o.eq_ignore_ascii_case(name)))
            .ok_or_else(|| QueryError::unknown(*span, "output", name, &known)),
        None if outputs.len() == 1 => Ok(0),
        None => outputs.iter().position(|o| o == "output").ok_or_else(|| {
            QueryError::at(
                statement.span,
                format!("no INTO, and none of several outputs is named `output`: {}", known.join(", ")),
            )
            .help("add INTO and the name of an output")
        }),
    }
}
