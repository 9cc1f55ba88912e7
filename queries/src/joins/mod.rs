//! JOIN: of two streams ([`stream`]), and of a stream with reference data ([`lookup`]).
//!
//! The terms that AND connects in its ON are sorted ([`on`]): bounds of the time between two sources ([`time_bounds`]),
//! equalities of both sides by which rows are found, conditions of one side that are checked before, and the rest, checked
//! on each pair.

mod lookup;
mod on;
mod stream;
mod time_bounds;

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use sqlparser::{
    ast::{Expr, JoinConstraint, JoinOperator},
    tokenizer::Span,
};

use crate::{
    error::{QueryError, reason},
    scope::{Scope, SourceTime},
    typed::Typed,
};

/// The kind of a join of the language, and its ON.
pub(crate) fn join_of(operator: &JoinOperator, span: Span) -> Result<(bool, &Expr), QueryError> {
    let (outer, constraint, name) = match operator {
        JoinOperator::Join(c) | JoinOperator::Inner(c) => (false, c, "JOIN"),
        JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => (true, c, "LEFT JOIN"),
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) => return Err(no_join("RIGHT JOIN", span)),
        JoinOperator::FullOuter(_) => return Err(no_join("FULL JOIN", span)),
        JoinOperator::CrossJoin(_) => return Err(no_join("CROSS JOIN", span)),
        _ => return Err(no_join("this kind of JOIN", span)),
    };
    match constraint {
        JoinConstraint::On(on) => Ok((outer, on)),
        JoinConstraint::Using(_) => {
            Err(QueryError::at(span, "USING is not of the language").help("write ON a.k = b.k"))
        }
        JoinConstraint::Natural => Err(no_join("NATURAL JOIN", span)),
        JoinConstraint::None => Err(QueryError::at(span, format!("{name} needs an ON"))),
    }
}

fn no_join(name: &str, span: Span) -> QueryError {
    QueryError::at(span, format!("{name} is not of the language"))
        .help("there are JOIN and LEFT JOIN; a right join is a left join with the sides exchanged")
}

/// The names of both sides; the columns of the right one lie behind `left_width`.
fn joined_scope(left: &Scope, right: &Scope, left_width: usize, time: usize) -> Scope {
    let mut scope = left.clone();
    let relations = scope.relations.len();
    scope.relations.extend(right.relations.iter().cloned());
    scope.columns.extend(right.columns.iter().cloned().map(|mut c| {
        c.index += left_width;
        c.relation += relations;
        c
    }));
    scope.analytics.extend(right.analytics.iter().cloned().map(|mut a| {
        a.index += left_width;
        a
    }));
    for source in &mut scope.sources {
        source.time = Some(source.time.unwrap_or(left.time));
    }
    scope.sources.extend(right.sources.iter().map(|s| SourceTime {
        relation: s.relation + relations,
        time: Some(left_width + s.time.unwrap_or(right.time)),
        lag_us: s.lag_us,
    }));
    scope.event_times.extend(right.event_times.iter().map(|(r, name)| (r + relations, name.clone())));
    // The event time under another name was that of a side.
    scope.columns.iter_mut().for_each(|c| c.is_time = false);
    scope.time = time;
    scope.joined = true;
    scope.declared &= right.declared;
    scope.note = scope.note.or_else(|| right.note.clone());
    scope
}

/// An expression over the columns of the join as one over those of the right side.
fn shifted(item: &Typed, left_width: usize) -> Result<Arc<dyn PhysicalExpr>, QueryError> {
    let moved = Arc::clone(&item.expr).transform_up(|e| match e.downcast_ref::<Column>() {
        Some(c) => {
            Ok(Transformed::yes(Arc::new(Column::new(c.name(), c.index() - left_width)) as Arc<dyn PhysicalExpr>))
        }
        None => Ok(Transformed::no(e)),
    });
    moved.data().map_err(|e| QueryError::at(item.span, reason(&e)))
}
