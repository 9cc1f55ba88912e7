//! Bounds of the time between two sources of a JOIN: `DATEDIFF(minute, a, b) BETWEEN 0 AND 15`, `b.ts BETWEEN a.ts AND
//! a.ts + INTERVAL '15' MINUTE`, equal columns of windows.

use datafusion_common::ScalarValue;
use datafusion_physical_expr::expressions::Column;
use sqlparser::{
    ast::{BinaryOperator, Expr, Ident},
    tokenizer::Span,
};
use tidemill_engine::dataflow::plan::TimeBound;

use super::on::Sides;
use crate::{
    error::QueryError,
    expression::{Expressions, place},
    scope::{Scope, SourceTime},
    typed::Typed,
    windows::{MAX_ASA_SIZE, arguments, function_name, interval, name_span, unit_of, whole},
};

/// Bounds of the time from a source of the left side to the right side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) source: SourceTime,
    unit_us: i64,
    pub(super) min: Option<i64>,
    pub(super) max: Option<i64>,
}

impl Bound {
    pub(super) fn planned(&self, left: &Scope) -> TimeBound {
        TimeBound {
            left_time: self.source.time.unwrap_or(left.time),
            lag_us: self.source.lag_us,
            unit_us: self.unit_us,
            min: self.min,
            max: self.max,
        }
    }

    /// The ends in microseconds of elapsed time, rounded outwards.
    fn elapsed(&self) -> (Option<i64>, Option<i64>) {
        let micros = |n: i64| n.saturating_mul(self.unit_us);
        (self.min.map(|n| micros(n.saturating_sub(1))), self.max.map(|n| micros(n.saturating_add(1))))
    }
}

/// How far the sources of a joined row may lie before its event time, which is the latest of theirs.
pub(super) struct Lags {
    /// The right row at most so much behind the left event time.
    right: i64,
    /// The left event time at most so much behind the right row.
    left: i64,
}

impl Lags {
    pub(super) fn of(bounds: &[Bound]) -> Self {
        let ahead = bounds.iter().filter_map(|b| Some(b.elapsed().1?.max(0)));
        let behind = bounds.iter().filter_map(|b| Some((-b.elapsed().0?).max(0).saturating_add(b.source.lag_us)));
        Self { left: ahead.min().unwrap_or(0), right: behind.min().unwrap_or(0) }
    }

    pub(super) fn of_left(&self, source: &SourceTime) -> i64 {
        source.lag_us.saturating_add(self.left)
    }

    pub(super) fn of_right(&self) -> i64 {
        self.right
    }
}

/// A time in the text: the event time of a source, and what is added to it.
#[derive(Clone, Copy, Debug)]
struct TimeTerm {
    relation: usize,
    offset_us: i64,
}

impl Sides<'_> {
    /// Bounds of time that a term gives; `None` when it is no such term.
    pub(super) fn bounds(&self, term: &Expr) -> Result<Option<Vec<Bound>>, QueryError> {
        match term {
            Expr::Nested(inner) => self.bounds(inner),
            Expr::Between { expr, negated: false, low, high } => {
                if let Some(difference) = self.difference(expr)? {
                    let (low, high) = (constant(low)?, constant(high)?);
                    return Ok(Some(vec![difference.within(Some(low), Some(high))?]));
                }
                let Some((value, low, high)) = self.time(expr)?.zip(self.time(low)?).zip(self.time(high)?).map(flat)
                else {
                    return Ok(None);
                };
                Ok(self.ordered(low, value).zip(self.ordered(value, high)).map(|(a, b)| vec![a, b]))
            }
            Expr::BinaryOp { left, op, right } => {
                if let Some(difference) = self.difference(left)? {
                    let range = range(op, constant(right)?);
                    return range.map(|(min, max)| Ok(vec![difference.within(min, max)?])).transpose();
                }
                if let Some(difference) = self.difference(right)? {
                    let flipped = flip(op);
                    let range = range(&flipped, constant(left)?);
                    return range.map(|(min, max)| Ok(vec![difference.within(min, max)?])).transpose();
                }
                let Some((left, right)) = self.time(left)?.zip(self.time(right)?) else { return Ok(None) };
                let earlier = |t: TimeTerm| TimeTerm { offset_us: t.offset_us - 1, ..t };
                Ok(match op {
                    BinaryOperator::LtEq => self.ordered(left, right).map(|b| vec![b]),
                    BinaryOperator::Lt => self.ordered(left, earlier(right)).map(|b| vec![b]),
                    BinaryOperator::GtEq => self.ordered(right, left).map(|b| vec![b]),
                    BinaryOperator::Gt => self.ordered(right, earlier(left)).map(|b| vec![b]),
                    BinaryOperator::Eq => {
                        self.ordered(left, right).zip(self.ordered(right, left)).map(|(a, b)| vec![a, b])
                    }
                    _ => None,
                })
            }
            _ => Ok(None),
        }
    }

    /// `DATEDIFF(unit, a, b)` of two sources of different sides.
    fn difference(&self, expr: &Expr) -> Result<Option<Difference>, QueryError> {
        let function = match expr {
            Expr::Nested(inner) => return self.difference(inner),
            Expr::Function(f) if function_name(f) == "datediff" => f,
            _ => return Ok(None),
        };
        let [unit, Expr::Identifier(a), Expr::Identifier(b)] = arguments(function)?[..] else { return Ok(None) };
        let (Some(first), Some(second)) = (self.source(a), self.source(b)) else { return Ok(None) };
        let unit_us = unit_of(unit)?;
        let is_left = |relation: usize| relation < self.left_relations;
        let (source, flipped) = match (is_left(first.relation), is_left(second.relation)) {
            (true, false) => (first, false),
            (false, true) => (second, true),
            (false, false) => {
                return Err(QueryError::at(
                    name_span(function),
                    format!("`{a}` and `{b}` are the same side of the JOIN"),
                )
                .help("DATEDIFF bounds the time from one side to the other"));
            }
            (true, true) => return Ok(None), // a condition of the left rows
        };
        Ok(Some(Difference { source, unit_us, flipped, span: name_span(function) }))
    }

    fn source(&self, name: &Ident) -> Option<SourceTime> {
        let relation = self.scope.relation(&name.value)?;
        self.scope.sources.iter().find(|s| s.relation == relation).copied()
    }

    /// `a.ts`, `a.ts + INTERVAL '5' MINUTE`, `DATEADD(minute, 5, a.ts)`, where `ts` is the event time of `a`.
    fn time(&self, expr: &Expr) -> Result<Option<TimeTerm>, QueryError> {
        Ok(match expr {
            Expr::Nested(inner) => self.time(inner)?,
            Expr::CompoundIdentifier(path) => match path.as_slice() {
                [qualifier, column] => self.scope.relation(&qualifier.value).and_then(|relation| {
                    let is_time = self
                        .scope
                        .event_times
                        .iter()
                        .any(|(r, name)| *r == relation && name.eq_ignore_ascii_case(&column.value));
                    is_time.then_some(TimeTerm { relation, offset_us: 0 })
                }),
                _ => None,
            },
            Expr::BinaryOp { left, op: op @ (BinaryOperator::Plus | BinaryOperator::Minus), right }
                if matches!(right.as_ref(), Expr::Interval(_)) =>
            {
                let sign = if *op == BinaryOperator::Plus { 1 } else { -1 };
                let added = interval(right)? * sign;
                self.time(left)?.map(|t| TimeTerm { offset_us: t.offset_us + added, ..t })
            }
            Expr::Function(f) if function_name(f) == "dateadd" => match arguments(f)?[..] {
                [unit, n, time] => match (self.time(time)?, unit_of(unit), whole(n)) {
                    (Some(t), Ok(unit), Ok(n)) => Some(TimeTerm { offset_us: t.offset_us + unit * n, ..t }),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        })
    }

    /// `earlier <= later` as a bound, when they are of different sides.
    fn ordered(&self, earlier: TimeTerm, later: TimeTerm) -> Option<Bound> {
        let source = |t: TimeTerm| self.scope.sources.iter().find(|s| s.relation == t.relation).copied();
        let is_left = |t: TimeTerm| t.relation < self.left_relations;
        match (is_left(earlier), is_left(later)) {
            // left + a <= right + b
            (true, false) => Some(Bound {
                source: source(earlier)?,
                unit_us: 1,
                min: Some(earlier.offset_us - later.offset_us),
                max: None,
            }),
            // right + a <= left + b
            (false, true) => Some(Bound {
                source: source(later)?,
                unit_us: 1,
                min: None,
                max: Some(later.offset_us - earlier.offset_us),
            }),
            _ => None,
        }
    }

    /// Rows of one window lie within its size of one another.
    pub(super) fn same_window(&self, a: &Typed, b: &Typed) -> Option<Bound> {
        let window = |item: &Typed| {
            let index = item.expr.downcast_ref::<Column>()?.index();
            self.scope.columns.iter().find(|c| c.index == index).and_then(|c| Some((c.relation, c.window?)))
        };
        let ((relation, size), (_, other)) = (window(a)?, window(b)?);
        let source = self.scope.sources.iter().find(|s| s.relation == relation).copied()?;
        (size == other).then_some(Bound { source, unit_us: 1, min: Some(-size), max: Some(size) })
    }
}

fn flat<A, B, C>(((a, b), c): ((A, B), C)) -> (A, B, C) {
    (a, b, c)
}

/// DATEDIFF from the left side to the right one, or from the right one to the left.
#[derive(Clone, Copy, Debug)]
struct Difference {
    source: SourceTime,
    unit_us: i64,
    flipped: bool,
    /// Where the text has it.
    span: Span,
}

impl Difference {
    /// # Errors
    /// Where an end lies further away than the language allows.
    fn within(self, min: Option<i64>, max: Option<i64>) -> Result<Bound, QueryError> {
        let far = |n: &i64| n.checked_mul(self.unit_us).is_none_or(|us| !(-MAX_ASA_SIZE..=MAX_ASA_SIZE).contains(&us));
        if min.iter().chain(&max).any(far) {
            return Err(QueryError::at(self.span, "the rows of a JOIN lie at most 7 days apart"));
        }
        let (min, max) = if self.flipped { (max.map(|n| -n), min.map(|n| -n)) } else { (min, max) };
        Ok(Bound { source: self.source, unit_us: self.unit_us, min, max })
    }
}

fn range(op: &BinaryOperator, n: i64) -> Option<(Option<i64>, Option<i64>)> {
    match op {
        BinaryOperator::Eq => Some((Some(n), Some(n))),
        BinaryOperator::Lt => Some((None, Some(n - 1))),
        BinaryOperator::LtEq => Some((None, Some(n))),
        BinaryOperator::Gt => Some((Some(n + 1), None)),
        BinaryOperator::GtEq => Some((Some(n), None)),
        _ => None,
    }
}

fn flip(op: &BinaryOperator) -> BinaryOperator {
    match op {
        BinaryOperator::Lt => BinaryOperator::Gt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        other => other.clone(),
    }
}

/// A whole number that the text gives, calculated if need be.
fn constant(expr: &Expr) -> Result<i64, QueryError> {
    let nothing = Scope::empty();
    let value = Expressions::plain(&nothing, "expected a number").plan(expr);
    match value.as_ref().ok().and_then(Typed::constant) {
        Some(ScalarValue::Int64(Some(n))) if n.unsigned_abs() <= MAX_ENDS => Ok(*n),
        Some(ScalarValue::Float64(Some(n))) if n.fract() == 0.0 && n.abs() <= MAX_ENDS as f64 => Ok(*n as i64),
        _ => Err(QueryError::at(place(expr), "the bounds of DATEDIFF in ON are whole numbers")),
    }
}

/// What a bound can be at most, in any unit.
const MAX_ENDS: u64 = 1 << 50;
