//! The terms of an ON, sorted by what a join does with them.

use sqlparser::ast::{BinaryOperator, Expr};

use super::time_bounds::Bound;
use crate::{
    coercion::comparison_type,
    error::{QueryErrors, both},
    expression::Expressions,
    functions::conversion::{Failure, convert},
    graph::columns_of,
    scope::Scope,
    typed::Typed,
};

/// What an ON says.
#[derive(Debug, Default)]
pub(super) struct Terms {
    pub(super) keys: Vec<(Typed, Typed)>,
    pub(super) bounds: Vec<Bound>,
    /// Conditions over the left, the right, both.
    pub(super) left: Vec<Typed>,
    pub(super) right: Vec<Typed>,
    pub(super) rest: Vec<Typed>,
}

/// Both sides of a join, for reading its ON.
pub(super) struct Sides<'a> {
    pub(super) scope: &'a Scope,
    pub(super) left_relations: usize,
    pub(super) left_width: usize,
    pub(super) time: usize,
}

impl Sides<'_> {
    pub(super) fn terms(&self, on: &Expr) -> Result<Terms, QueryErrors> {
        let mut found = Terms::default();
        let mut result = Ok(());
        for term in conjuncts(on) {
            let this = self.term(term, &mut found);
            result = both(result, this).map(drop);
        }
        result.map(|()| found)
    }

    fn term(&self, term: &Expr, found: &mut Terms) -> Result<(), QueryErrors> {
        if let Some(bounds) = self.bounds(term)? {
            found.bounds.extend(bounds);
            return Ok(());
        }
        let mut expressions = Expressions::plain(self.scope, "aggregates cannot be used in ON");
        if let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = term {
            let (a, b) = (expressions.plan(left)?, expressions.plan(right)?);
            let pair = match (self.side(&a), self.side(&b)) {
                (Some(0), Some(1)) => Some((a, b)),
                (Some(1), Some(0)) => Some((b, a)),
                _ => None,
            };
            if let Some((a, b)) = pair
                && let Some(common) = comparison_type(&a.data_type, &b.data_type)
            {
                found.bounds.extend(self.same_window(&a, &b));
                // What cannot be converted equals nothing.
                let key = |side: Typed| match side.data_type == common {
                    true => Ok(side),
                    false => convert(side, &common, Failure::Null),
                };
                found.keys.push((key(a)?, key(b)?));
                return Ok(());
            }
        }
        let condition = expressions.condition(term)?;
        match self.side(&condition) {
            Some(0) => found.left.push(condition),
            Some(1) => found.right.push(condition),
            _ => found.rest.push(condition),
        }
        Ok(())
    }

    /// The side whose columns alone an expression reads; `None`: neither, or both.
    fn side(&self, item: &Typed) -> Option<usize> {
        let columns = columns_of(&item.expr);
        let left = columns.iter().any(|c| *c < self.left_width);
        let right = columns.iter().any(|c| *c >= self.left_width && *c != self.time);
        match (left, right, columns.contains(&self.time)) {
            (true, false, false) => Some(0),
            (false, true, false) => Some(1),
            _ => None,
        }
    }
}

/// The terms that AND connects.
fn conjuncts(on: &Expr) -> Vec<&Expr> {
    let mut terms = vec![];
    let mut open = vec![on];
    while let Some(expr) = open.pop() {
        match expr {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => open.extend([right.as_ref(), left.as_ref()]),
            Expr::Nested(inner) => open.push(inner),
            term => terms.push(term),
        }
    }
    terms
}
