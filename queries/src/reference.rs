//! Reference data in a query: an input of it, or a step that selects from one.
//!
//! A table has no rows of its own in the dataflow: a stream looks them up. So a step over reference data is no node either
//! but a view: its columns are expressions over those of the table, computed behind the lookup, and its WHERE is one more
//! condition of the lookup.

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use sqlparser::ast::{GroupByExpr, Query, SetExpr, TableFactor};

use crate::{
    error::{QueryError, QueryErrors, both, reason},
    expression::{Expressions, place},
    plan::Planner,
    scope::{Scope, ScopeColumn},
    script::{check_query, check_select},
    select::items,
    tables::{relation_name, rename, timestamp_by},
    typed::Typed,
};

/// What a step over reference data selects, as expressions over the columns of the table.
#[derive(Clone, Debug)]
pub(crate) struct ReferenceView {
    /// The input, by its place.
    table: usize,
    columns: Vec<(String, Typed)>,
    filter: Option<Typed>,
}

/// The right side of a JOIN with reference data.
#[derive(Debug)]
pub(crate) struct Reference {
    /// The input, by its place.
    pub(crate) table: usize,
    /// The columns of the table.
    pub(crate) raw: Scope,
    pub(crate) view: Option<View>,
}

/// A view under the name that the JOIN gives it.
#[derive(Debug)]
pub(crate) struct View {
    /// Its columns, which lie behind those of the table.
    pub(crate) scope: Scope,
    /// What each of them is, over the columns of the table.
    pub(crate) columns: Vec<Typed>,
    pub(crate) filter: Option<Typed>,
}

impl Planner<'_> {
    /// The reference data that an element of FROM names, if it is some.
    pub(crate) fn reference(&self, factor: &TableFactor) -> Result<Option<Reference>, QueryErrors> {
        let TableFactor::Table { name, alias, args: None, with_hints, .. } = factor else { return Ok(None) };
        let name = relation_name(name)?;
        let view = self.view(name);
        if view.is_none() && self.step(name)?.is_some() {
            return Ok(None);
        }
        let table = match view {
            Some(view) => view.table,
            None => self.input(name)?,
        };
        if !self.tables[table].reference {
            return Ok(None);
        }
        if let Some(by) = timestamp_by(with_hints)? {
            return Err(QueryError::at(place(by.expr), format!("reference data has no time: `{}`", name.value))
                .help("leave TIMESTAMP BY away")
                .into());
        }
        let mut raw = self.input_scope(table);
        let Some(view) = view else {
            rename(&mut raw, alias.as_ref())?;
            return Ok(Some(Reference { table, raw, view: None }));
        };
        let first = raw.columns.len();
        let columns = view.columns.iter().enumerate().map(|(i, (name, item))| ScopeColumn {
            name: name.clone(),
            data_type: item.data_type.clone(),
            index: first + i,
            relation: 0,
            visible: true,
            is_time: false,
            is_time_text: false,
            window: None,
        });
        let mut scope =
            Scope { relations: vec![vec![name.value.clone()]], columns: columns.collect(), note: None, ..raw.clone() };
        rename(&mut scope, alias.as_ref())?;
        let columns = view.columns.iter().map(|(_, item)| item.clone()).collect();
        Ok(Some(Reference { table, raw, view: Some(View { scope, columns, filter: view.filter.clone() }) }))
    }

    /// The view that a step is which selects from reference data; `None` for every other step.
    pub(crate) fn reference_view(&self, query: &Query) -> Result<Option<ReferenceView>, QueryErrors> {
        let SetExpr::Select(select) = query.body.as_ref() else { return Ok(None) };
        let [from] = select.from.as_slice() else { return Ok(None) };
        // What is no input is reported where the step is planned.
        let Ok(Some(Reference { table, raw, view })) = self.reference(&from.relation) else { return Ok(None) };
        check_query(query)?;
        check_select(select)?;
        let span = select.select_token.0.span;
        let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
        if grouped || select.having.is_some() || !from.joins.is_empty() {
            return Err(QueryError::at(span, "a step over reference data has SELECT, FROM and WHERE only")
                .help("JOIN it to a stream, and group or join the result")
                .into());
        }
        let scope = view.as_ref().map_or(&raw, |view| &view.scope);
        let mut expressions = Expressions::plain(scope, "reference data has no time, and so no window to aggregate in");
        let filter = select.selection.as_ref().map(|c| expressions.condition(c)).transpose();
        let (filter, columns) = both(filter, items(select, &mut expressions, Some(scope)))?;
        let first = raw.columns.len();
        let below = |item: Typed| view.as_ref().map_or(Ok(item.clone()), |view| view.over_table(&item, first, 0));
        let columns = columns.into_iter().map(|(name, item)| Ok((name, below(item)?)));
        let columns = columns.collect::<Result<_, QueryError>>()?;
        let mut filters: Vec<Typed> = filter.map(&below).transpose()?.into_iter().collect();
        filters.extend(view.as_ref().and_then(|view| view.filter.clone()));
        let filter = match filters.len() {
            0 => None,
            _ => Some(crate::operators::balanced(filters, datafusion_expr::Operator::And, span)?),
        };
        Ok(Some(ReferenceView { table, columns, filter }))
    }
}

impl View {
    /// An expression in which a column at `first` or behind is one of the view, as one over the columns of the table, which
    /// begin at `table`.
    pub(crate) fn over_table(&self, item: &Typed, first: usize, table: usize) -> Result<Typed, QueryError> {
        let replaced = Arc::clone(&item.expr).transform_down(|e| {
            let at = e.downcast_ref::<Column>().and_then(|c| c.index().checked_sub(first));
            match at.and_then(|at| self.columns.get(at)) {
                Some(column) => Ok(Transformed::new(moved_by(&column.expr, table)?, true, TreeNodeRecursion::Jump)),
                None => Ok(Transformed::no(e)),
            }
        });
        let expr = replaced.data().map_err(|e| QueryError::at(item.span, reason(&e)))?;
        Ok(Typed { expr, ..item.clone() })
    }
}

/// With every column so many places further.
pub(crate) fn moved_by(
    expr: &Arc<dyn PhysicalExpr>,
    places: usize,
) -> datafusion_common::Result<Arc<dyn PhysicalExpr>> {
    let moved = Arc::clone(expr).transform_up(|e| match e.downcast_ref::<Column>() {
        Some(c) => Ok(Transformed::yes(Arc::new(Column::new(c.name(), c.index() + places)) as Arc<dyn PhysicalExpr>)),
        None => Ok(Transformed::no(e)),
    });
    moved.data()
}
