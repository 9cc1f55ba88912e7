//! `ROW_NUMBER() OVER (PARTITION BY window_start, window_end [, k] ORDER BY x)`: the places of rows in their window, for the
//! first rows of each (`WHERE n <= 3` in an outer SELECT) and for one row of several.

use std::ops::ControlFlow;

use arrow::{compute::SortOptions, datatypes::DataType};
use sqlparser::{
    ast::{Expr, Function, Select, visit_expressions},
    tokenizer::Span,
};
use tidemill_engine::dataflow::plan::RankPlan;

use crate::{
    analytic::Over,
    error::{QueryError, QueryErrors},
    expression::Expressions,
    graph::Step,
    plan::Planner,
    scope::{AnalyticColumn, schema_of},
    tables::{Relation, WINDOW_COLUMNS},
    typed::Typed,
    windows::{function_name, name_span},
};

const NO_AGGREGATES: &str = "aggregates cannot be used inside ROW_NUMBER; compute them in a subquery";

/// Whether a call is ROW_NUMBER.
pub(crate) fn is_row_number(function: &Function) -> bool {
    function_name(function) == "row_number"
}

/// The calls of ROW_NUMBER in a SELECT list, each once.
pub(crate) fn calls(select: &Select) -> Vec<Function> {
    let mut calls = vec![];
    // Nothing breaks off.
    let _ = visit_expressions::<_, (), _>(&select.projection, |expr| {
        if let Expr::Function(function) = expr
            && is_row_number(function)
            && !calls.contains(function)
        {
            calls.push(function.clone());
        }
        ControlFlow::Continue(())
    });
    calls
}

impl Planner<'_> {
    /// Adds a column for each call. The relation's rows are those of the SELECT, behind its WHERE.
    pub(crate) fn ranked(&mut self, relation: Relation, calls: Vec<Function>) -> Result<Relation, QueryErrors> {
        let mut relation = self.by_event_time(relation);
        for function in calls {
            let (plan, width) = (plan(&function, &relation)?, self.graph.schema(relation.node).fields().len());
            let before = self.graph.schema(relation.node);
            let columns = before.fields()[..width - 1].iter().map(|f| (f.name().clone(), f.data_type().clone()));
            let schema = schema_of(columns.chain([("row_number".to_owned(), DataType::Int64)]));
            relation.node = self.graph.add(Step::Rank(plan), vec![relation.node], schema);
            relation.scope.time = width;
            let column = AnalyticColumn { function, index: width - 1, data_type: DataType::Int64 };
            relation.scope.analytics.push(column);
        }
        Ok(relation)
    }

    /// The relation with the event time of the scope, which is `window_time` for rows of windows, as that of its rows.
    fn by_event_time(&mut self, mut relation: Relation) -> Relation {
        let schema = self.graph.schema(relation.node);
        let time = schema.fields().len() - 1;
        if relation.scope.time != time {
            let columns = schema.fields()[..time].iter().enumerate();
            let mut list: Vec<_> =
                columns.map(|(i, f)| Typed::column(f.name(), i, f.data_type().clone(), Span::empty()).expr).collect();
            list.push(relation.scope.time(Span::empty()).expr);
            relation.node = self.graph.add(Step::Project(list), vec![relation.node], schema);
            relation.scope.time = time;
        }
        relation
    }
}

fn plan(function: &Function, relation: &Relation) -> Result<RankPlan, QueryError> {
    let span = name_span(function);
    let over = Over::of(function)?;
    if over.when.is_some() || over.limit.is_some() {
        return Err(QueryError::at(span, "ROW_NUMBER takes neither LIMIT DURATION nor WHEN"));
    }
    let named = |column: &str| {
        over.partition.iter().any(|key| match key {
            Expr::Identifier(name) => name.value.eq_ignore_ascii_case(column),
            Expr::CompoundIdentifier(path) => path.last().is_some_and(|n| n.value.eq_ignore_ascii_case(column)),
            _ => false,
        })
    };
    if !named(WINDOW_COLUMNS[1]) && !named(WINDOW_COLUMNS[2]) {
        return Err(QueryError::at(span, "ROW_NUMBER numbers the rows of a window")
            .help("write OVER (PARTITION BY window_start, window_end ORDER BY ...)"));
    }
    let mut expressions = Expressions::plain(&relation.scope, NO_AGGREGATES);
    let partition = over.partition.iter().map(|k| Ok(expressions.plan(k)?.expr)).collect::<Result<_, QueryError>>()?;
    let order = over.order.iter().map(|by| {
        let descending = by.options.asc == Some(false);
        let nulls_first = by.options.nulls_first.unwrap_or(!descending);
        Ok((expressions.plan(&by.expr)?.expr, SortOptions { descending, nulls_first }))
    });
    let order = order.collect::<Result<_, QueryError>>()?;
    Ok(RankPlan { partition, order })
}
