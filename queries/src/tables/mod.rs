//! FROM: which rows a SELECT reads.
//!
//! [`inputs`] reads inputs and steps, each with its event time; [`table_functions`] has the standard windows, [`apply`] what
//! makes several rows of one. JOIN is in [`crate::joins`].

mod apply;
mod inputs;
mod table_functions;

use sqlparser::{
    ast::{Function, Ident, JoinOperator, ObjectName, TableAlias, TableFactor, TableWithJoins},
    tokenizer::Span,
};
use tidemill_engine::dataflow::plan::NodeId;

use self::table_functions::{table_argument, table_function};
pub(crate) use self::{
    inputs::timestamp_by,
    table_functions::{TableWindow, WINDOW_COLUMNS, add_window_columns},
};
use crate::{
    analytic,
    error::{QueryError, QueryErrors},
    joins::join_of,
    plan::Planner,
    scope::Scope,
    windows::{TABLE_FUNCTIONS, is_table_function},
};

/// Rows that a SELECT reads, or gives.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub(crate) node: NodeId,
    pub(crate) scope: Scope,
    /// The windows of a standard table function, not yet applied.
    pub(crate) window: Option<TableWindow>,
}

impl Planner<'_> {
    /// The rows that a SELECT reads, with the columns of its `calls` of functions of the rows before.
    pub(crate) fn from(
        &mut self,
        from: &[TableWithJoins],
        mut calls: Vec<Function>,
        select: Span,
    ) -> Result<Relation, QueryErrors> {
        let table = match from {
            [] => return Err(QueryError::at(select, "a SELECT needs a FROM").into()),
            [one] => one,
            [_, second, ..] => {
                let span = source_name(&second.relation).map_or(select, |n| n.span);
                return Err(QueryError::unsupported(span, "a FROM with several inputs").into());
            }
        };
        let relation = self.relation(&table.relation, select)?;
        let mut relation = self.analytic(relation, &mut calls)?;
        for join in &table.joins {
            relation = match &join.join_operator {
                JoinOperator::CrossApply | JoinOperator::OuterApply => {
                    let outer = matches!(join.join_operator, JoinOperator::OuterApply);
                    let elements = self.apply(relation, &join.relation, outer, select)?;
                    self.analytic(elements, &mut calls)?
                }
                operator => {
                    let span = source_name(&join.relation).map_or(select, |n| n.span);
                    let (outer, on) = join_of(operator, span)?;
                    match self.reference(&join.relation)? {
                        Some(reference) => self.lookup(relation, reference, outer, on, span)?,
                        None => {
                            let right = self.relation(&join.relation, select)?;
                            let right = self.analytic(right, &mut calls)?;
                            self.join(relation, right, outer, on, span)?
                        }
                    }
                }
            };
        }
        analytic::refuse(&calls, &relation.scope)?;
        Ok(relation)
    }

    pub(crate) fn relation(&mut self, factor: &TableFactor, select: Span) -> Result<Relation, QueryErrors> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                sample: None,
                version: None,
                json_path: None,
                with_ordinality: false,
                ..
            } => {
                let name = relation_name(name)?;
                let timestamp_by = timestamp_by(with_hints)?;
                let mut relation = self.named(name, timestamp_by)?;
                rename(&mut relation.scope, alias.as_ref())?;
                Ok(relation)
            }
            TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
                let mut relation = self.query(subquery)?;
                relation.scope.relations = vec![vec![]];
                rename(&mut relation.scope, alias.as_ref())?;
                Ok(relation)
            }
            TableFactor::Table { alias, .. } | TableFactor::TableFunction { alias, .. } => {
                let Some((name, args, span)) = table_function(factor) else {
                    return Err(QueryError::at(select, format!("`{factor}` cannot be read from")).into());
                };
                if !is_table_function(&name) {
                    return Err(QueryError::unknown(span, "table function", &name, &TABLE_FUNCTIONS).into());
                }
                let mut relation = self.windowed(&name, &args?, span)?;
                rename(&mut relation.scope, alias.as_ref())?;
                Ok(relation)
            }
            TableFactor::MatchRecognize { alias, .. } => {
                let mut relation = self.recognize(factor, select)?;
                relation.scope.relations = vec![vec![]];
                rename(&mut relation.scope, alias.as_ref())?;
                Ok(relation)
            }
            other => Err(QueryError::at(select, format!("`{other}` cannot be read from")).into()),
        }
    }
}

/// The one name of an input, step or output.
pub(crate) fn relation_name(name: &ObjectName) -> Result<&Ident, QueryError> {
    match name.0.as_slice() {
        [part] => part.as_ident().ok_or_else(|| QueryError::at(Span::empty(), format!("`{name}` is not a name"))),
        [first, ..] => {
            let span = first.as_ident().map_or(Span::empty(), |i| i.span);
            Err(QueryError::at(span, format!("`{name}` has several parts, expected one name")))
        }
        [] => Err(QueryError::at(Span::empty(), "expected a name")),
    }
}

/// Name of the input or step that an element of FROM reads.
pub(crate) fn source_name(factor: &TableFactor) -> Option<&Ident> {
    match factor {
        TableFactor::Table { name, args: None, .. } => relation_name(name).ok(),
        TableFactor::MatchRecognize { table, .. } => source_name(table),
        other => {
            let (_, args, span) = table_function(other)?;
            Some(table_argument(args.ok()?.first()?, span).ok()?.0)
        }
    }
}

pub(crate) fn rename(scope: &mut Scope, alias: Option<&TableAlias>) -> Result<(), QueryError> {
    let Some(alias) = alias else { return Ok(()) };
    if let Some(column) = alias.columns.first() {
        return Err(QueryError::unsupported(column.name.span, "an alias with column names"));
    }
    scope.relations[0].insert(0, alias.name.value.clone());
    Ok(())
}
