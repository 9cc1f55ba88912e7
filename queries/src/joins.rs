//! JOIN: what its ON says, and what the engine can do with it.
//!
//! The terms that AND connects are sorted: bounds of the time between two sources (`DATEDIFF(minute, a, b) BETWEEN 0 AND
//! 15`, `b.ts BETWEEN a.ts AND a.ts + INTERVAL '15' MINUTE`, equal columns of windows), equalities of both sides by which
//! rows are found, conditions of one side that are checked before, and the rest, checked on each pair.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion_common::{
    ScalarValue,
    tree_node::{Transformed, TransformedResult, TreeNode},
};
use datafusion_expr::Operator;
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use sqlparser::{
    ast::{BinaryOperator, Expr, Ident, JoinConstraint, JoinOperator},
    tokenizer::Span,
};
use tidemill_engine::{EVENT_TIME, dataflow::plan::TimeBound};

use crate::{
    coercion::comparison_type,
    error::{QueryError, QueryErrors, both, reason},
    expression::{Expressions, place},
    functions::conversion::{Failure, convert},
    graph::{JoinStep, LookupStep, Step, columns_of},
    operators::balanced,
    plan::Planner,
    reference::{Reference, moved_by},
    scope::{Scope, SourceTime, schema_of},
    tables::Relation,
    typed::Typed,
    windows::{MAX_ASA_SIZE, arguments, function_name, interval, name_span, unit_of, whole},
};

const NOT_BOUNDED: &str = "The join predicate is not time bounded. JOIN operation between data streams requires specifying \
     max time distances between matching events. Please add DATEDIFF to the JOIN condition.";

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

/// What an ON says.
#[derive(Debug, Default)]
struct Terms {
    keys: Vec<(Typed, Typed)>,
    bounds: Vec<Bound>,
    /// Conditions over the left, the right, both.
    left: Vec<Typed>,
    right: Vec<Typed>,
    rest: Vec<Typed>,
}

/// Bounds of the time from a source of the left side to the right side.
#[derive(Clone, Copy, Debug)]
struct Bound {
    source: SourceTime,
    unit_us: i64,
    min: Option<i64>,
    max: Option<i64>,
}

/// A time in the text: the event time of a source, and what is added to it.
#[derive(Clone, Copy, Debug)]
struct TimeTerm {
    relation: usize,
    offset_us: i64,
}

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

fn joined_schema(left: &SchemaRef, right: &SchemaRef) -> SchemaRef {
    let fields = left.fields().iter().chain(right.fields());
    schema_of(fields.map(|f| (f.name().clone(), f.data_type().clone())))
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

/// Both sides of a join, for reading its ON.
struct Sides<'a> {
    scope: &'a Scope,
    left_relations: usize,
    left_width: usize,
    time: usize,
}

impl Sides<'_> {
    fn terms(&self, on: &Expr) -> Result<Terms, QueryErrors> {
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

    /// Bounds of time that a term gives; `None` when it is no such term.
    fn bounds(&self, term: &Expr) -> Result<Option<Vec<Bound>>, QueryError> {
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
    fn same_window(&self, a: &Typed, b: &Typed) -> Option<Bound> {
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

impl Bound {
    fn planned(&self, left: &Scope) -> TimeBound {
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
struct Lags {
    /// The right row at most so much behind the left event time.
    right: i64,
    /// The left event time at most so much behind the right row.
    left: i64,
}

impl Lags {
    fn of(bounds: &[Bound]) -> Self {
        let ahead = bounds.iter().filter_map(|b| Some(b.elapsed().1?.max(0)));
        let behind = bounds.iter().filter_map(|b| Some((-b.elapsed().0?).max(0).saturating_add(b.source.lag_us)));
        Self { left: ahead.min().unwrap_or(0), right: behind.min().unwrap_or(0) }
    }

    fn of_left(&self, source: &SourceTime) -> i64 {
        source.lag_us.saturating_add(self.left)
    }

    fn of_right(&self) -> i64 {
        self.right
    }
}
