//! JOIN of a stream with reference data: each row looks up the rows of a table, as they were at its event time.

use std::sync::Arc;

use datafusion_expr::Operator;
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use sqlparser::{ast::Expr, tokenizer::Span};
use tidemill_engine::EVENT_TIME;

use super::{joined_scope, on::Sides, shifted};
use crate::{
    error::{QueryError, QueryErrors, reason},
    graph::{LookupStep, Step},
    operators::balanced,
    plan::Planner,
    reference::{Reference, moved_by},
    scope::schema_of,
    tables::Relation,
    typed::Typed,
};

impl Planner<'_> {
    /// `stream JOIN table ON on`: a table has no time, so any predicate will do.
    pub(crate) fn lookup(
        &mut self,
        stream: Relation,
        Reference { table, raw, view }: Reference,
        outer: bool,
        on: &Expr,
        span: Span,
    ) -> Result<Relation, QueryErrors> {
        let stream = self.assigned(stream);
        let before = self.graph.schema(stream.node);
        let left_width = before.fields().len() - 1;
        let width = left_width + raw.columns.len();
        // The columns of a view lie behind those of its table, until the terms of the ON are known.
        let mut right = view.as_ref().map_or(&raw, |view| &view.scope).clone();
        let time = width + view.as_ref().map_or(0, |view| view.columns.len());
        right.sources.clear();
        let mut scope = joined_scope(&stream.scope, &right, left_width, time);
        // The event time is still that of the stream.
        scope.sources.clone_from(&stream.scope.sources);
        let sides = Sides { scope: &scope, left_relations: stream.scope.relations.len(), left_width, time };
        let terms = sides.terms(on)?;
        if let Some(bound) = terms.bounds.first() {
            return Err(QueryError::at(span, "reference data has no time: DATEDIFF of it is not bounded")
                .help(format!("leave the bound of `{}` away", scope.relations[bound.source.relation].join("` or `")))
                .into());
        }
        let over_table = |item: Typed| match &view {
            Some(view) => view.over_table(&item, width, left_width),
            None => Ok(item),
        };
        let mut rest = terms.rest;
        rest.extend(terms.left);
        rest.extend(terms.right);
        let mut rest = rest.into_iter().map(over_table).collect::<Result<Vec<_>, _>>()?;
        if let Some(filter) = view.as_ref().and_then(|view| view.filter.clone()) {
            let expr = moved_by(&filter.expr, left_width).map_err(|e| QueryError::at(span, reason(&e)))?;
            rest.push(Typed { expr, ..filter });
        }
        let condition = if rest.is_empty() { None } else { Some(balanced(rest, Operator::And, span)?.expr) };
        let keys = terms.keys.into_iter().map(|(l, r)| Ok((l.expr, over_table(r)?)));
        let keys = keys.collect::<Result<Vec<_>, QueryError>>()?;
        // A key of the table is null only where nothing matched.
        let matched = keys.first().map(|(_, key)| key.clone());
        let keys = keys.into_iter().map(|(l, r)| Ok((l, shifted(&r, left_width)?)));
        let keys = keys.collect::<Result<_, QueryError>>()?;
        let fields = before.fields()[..left_width].iter().map(|f| (f.name().clone(), f.data_type().clone()));
        let added = raw.columns.iter().map(|c| (c.name.clone(), c.data_type.clone()));
        let schema = schema_of(fields.clone().chain(added));
        let step = LookupStep { table, outer, keys, condition, left_width };
        let mut node = self.graph.add(Step::Lookup(step), vec![stream.node], schema);
        if let Some(view) = view {
            let span = Span::empty();
            let column = |i: usize, name: &str| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(name, i)) };
            let mut list: Vec<_> =
                before.fields()[..left_width].iter().enumerate().map(|(i, f)| column(i, f.name())).collect();
            for item in &view.columns {
                let expr = moved_by(&item.expr, left_width).map_err(|e| QueryError::at(span, reason(&e)))?;
                let item = Typed { expr, ..item.clone() };
                list.push(match &matched {
                    Some(key) if outer && !item.expr.is::<Column>() => {
                        let nothing = Typed::null(&item.data_type, span);
                        Typed::case(vec![(key.clone().not_null_test(span)?, item)], nothing, span)?.expr
                    }
                    _ => item.expr,
                });
            }
            list.push(column(width, EVENT_TIME));
            let added = view.scope.columns.iter().map(|c| (c.name.clone(), c.data_type.clone()));
            node = self.graph.add(Step::Project(list), vec![node], schema_of(fields.chain(added)));
            for c in scope.columns.iter_mut().filter(|c| c.index >= width) {
                c.index -= raw.columns.len();
            }
            scope.time = left_width + view.columns.len();
        }
        Ok(Relation { node, scope, window: None })
    }
}
