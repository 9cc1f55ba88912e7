//! JOIN of two streams, whose ON says how far apart in time the rows of a pair lie at most.

use arrow::datatypes::SchemaRef;
use datafusion_expr::Operator;
use sqlparser::{ast::Expr, tokenizer::Span};

use super::{
    joined_scope,
    on::Sides,
    shifted,
    time_bounds::{Bound, Lags},
};
use crate::{
    error::{QueryError, QueryErrors},
    graph::{JoinStep, Step},
    operators::balanced,
    plan::Planner,
    scope::schema_of,
    tables::Relation,
};

const NOT_BOUNDED: &str = "The join predicate is not time bounded. JOIN operation between data streams requires specifying \
     max time distances between matching events. Please add DATEDIFF to the JOIN condition.";

impl Planner<'_> {
    /// `left JOIN right ON on`, of two streams.
    pub(crate) fn join(
        &mut self,
        left: Relation,
        right: Relation,
        outer: bool,
        on: &Expr,
        span: Span,
    ) -> Result<Relation, QueryErrors> {
        let (left, right) = (self.assigned(left), self.assigned(right));
        let (left_schema, right_schema) = (self.graph.schema(left.node), self.graph.schema(right.node));
        let left_width = left_schema.fields().len();
        let time = left_width + right_schema.fields().len();
        let scope = joined_scope(&left.scope, &right.scope, left_width, time);
        let sides = Sides { scope: &scope, left_relations: left.scope.relations.len(), left_width, time };
        let terms = sides.terms(on)?;

        let (mut left_node, mut right_node) = (left.node, right.node);
        // A left row stays without a match where a condition on it alone is false.
        let mut rest = terms.rest;
        match outer {
            true => rest.extend(terms.left),
            false => {
                for condition in terms.left {
                    left_node = self.graph.filter(left_node, condition.expr);
                }
            }
        }
        for condition in terms.right {
            right_node = self.graph.filter(right_node, shifted(&condition, left_width)?);
        }
        let bounded = |end: fn(&Bound) -> Option<i64>| terms.bounds.iter().any(|b| end(b).is_some());
        if !bounded(|b| b.min) || !bounded(|b| b.max) {
            return Err(QueryError::at(span, NOT_BOUNDED)
                .help("e.g. AND DATEDIFF(minute, a, b) BETWEEN 0 AND 15, with the names of the two sides")
                .into());
        }
        let condition = if rest.is_empty() { None } else { Some(balanced(rest, Operator::And, span)?.expr) };
        let keys = terms.keys.into_iter().map(|(l, r)| Ok((l.expr, shifted(&r, left_width)?)));
        let step = JoinStep {
            outer,
            keys: keys.collect::<Result<_, QueryError>>()?,
            bounds: terms.bounds.iter().map(|b| b.planned(&left.scope)).collect(),
            condition,
            left_width,
        };
        let mut scope = scope;
        let lags = Lags::of(&terms.bounds);
        for (i, source) in scope.sources.iter_mut().enumerate() {
            source.lag_us = if i < left.scope.sources.len() { lags.of_left(source) } else { lags.of_right() };
        }
        let schema = joined_schema(&left_schema, &right_schema);
        let node = self.graph.add(Step::Join(step), vec![left_node, right_node], schema);
        Ok(Relation { node, scope, window: None })
    }
}

fn joined_schema(left: &SchemaRef, right: &SchemaRef) -> SchemaRef {
    let fields = left.fields().iter().chain(right.fields());
    schema_of(fields.map(|f| (f.name().clone(), f.data_type().clone())))
}
