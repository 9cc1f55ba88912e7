//! Expressions of the text as typed physical expressions.
//!
//! Names are resolved, types converted and constants evaluated in one pass. Conditions are two-valued as in ASA: a
//! comparison with NULL counts as false, so that `NOT` makes it true. AND and OR need nothing for that (a row passes only
//! if the condition is true), NOT becomes `IS NOT TRUE`.
//!
//! Here are the walk over the tree and its operators; [`names`] has columns, paths and records, [`calls`] the functions,
//! [`aggregate_calls`] those of them that become columns of an aggregation.

mod aggregate_calls;
mod calls;
mod names;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::{
    PhysicalExpr,
    expressions::{
        BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NegativeExpr, NotExpr,
    },
};
use sqlparser::{
    ast::{
        BinaryOperator, CastKind, CeilFloorKind, DateTimeField, Expr, Spanned, TrimWhereField, UnaryOperator, Value,
        ValueWithSpan,
    },
    tokenizer::Span,
};
use tidemill_engine::datetime_type;

use crate::{
    aggregates::AggregateCall,
    coercion::{cast_target, coerce, comparison_type, mismatch, to_number, type_name},
    error::{QueryError, reason},
    functions::{conversion::Failure, pattern::Like},
    operators::{balanced, binary, bit, call, case, cast, compare, literal, number},
    scope::Scope,
    typed::Typed,
    windows::name_span,
};

/// Expressions nested deeper are refused; each level costs stack here, in evaluation and when dropped.
const MAX_DEPTH: usize = 128;

/// Plans expressions over one scope.
pub(crate) struct Expressions<'a> {
    scope: &'a Scope,
    /// What arguments of aggregates see: the rows that go into the window.
    rows: &'a Scope,
    /// Why aggregates are not allowed here; `None` where they are.
    no_aggregates: Option<&'static str>,
    /// Aggregates met so far; the one at `i` is the column `first_aggregate + i`.
    pub(crate) aggregates: Vec<AggregateCall>,
    first_aggregate: usize,
    /// Names of the SELECT list, for HAVING; they win over columns.
    aliases: Vec<(String, Typed)>,
    /// The place of a row in the order of all rows, where rows have one.
    pub(crate) order: Option<Typed>,
    /// What `System.Window().Id` is; null where no window has an id.
    pub(crate) window_id: Option<Typed>,
    /// Columns in the order of their use outside aggregates.
    pub(crate) used: Vec<(usize, Span)>,
    /// How many NEWGUID() have been met.
    guids: i64,
    depth: usize,
}

impl<'a> Expressions<'a> {
    /// Without aggregates; `reason` is what a user hears who writes one.
    pub(crate) fn plain(scope: &'a Scope, reason: &'static str) -> Self {
        Self {
            scope,
            rows: scope,
            no_aggregates: Some(reason),
            aggregates: vec![],
            first_aggregate: 0,
            aliases: vec![],
            order: None,
            window_id: None,
            used: vec![],
            guids: 0,
            depth: 0,
        }
    }

    /// With aggregates, which become columns from `first_aggregate` on.
    pub(crate) fn grouped(scope: &'a Scope, rows: &'a Scope, first_aggregate: usize) -> Self {
        Self { rows, no_aggregates: None, first_aggregate, ..Self::plain(scope, "") }
    }

    pub(crate) fn with_aliases(&mut self, aliases: Vec<(String, Typed)>) {
        self.aliases = aliases;
    }

    /// A condition of WHERE, HAVING, CASE or IIF.
    pub(crate) fn condition(&mut self, expr: &Expr) -> Result<Typed, QueryError> {
        let condition = self.plan(expr)?;
        match condition.data_type {
            DataType::Boolean => Ok(condition),
            DataType::Null => coerce(condition, &DataType::Boolean),
            _ => Err(QueryError::at(
                condition.span,
                format!("expected a condition, found {}", type_name(&condition.data_type)),
            )),
        }
    }

    pub(crate) fn plan(&mut self, expr: &Expr) -> Result<Typed, QueryError> {
        self.depth += 1;
        let span = place(expr);
        let planned = if self.depth > MAX_DEPTH {
            Err(QueryError::at(span, format!("the expression is nested deeper than {MAX_DEPTH} levels"))
                .help("split it over steps of a WITH clause"))
        } else {
            self.plan_at(expr, span)
        };
        self.depth -= 1;
        planned.map(|p| p.at(span))
    }

    fn plan_at(&mut self, expr: &Expr, span: Span) -> Result<Typed, QueryError> {
        match expr {
            Expr::Identifier(name) => self.name(name),
            Expr::CompoundIdentifier(path) => self.path(path),
            Expr::CompoundFieldAccess { root, access_chain } => self.access(root, access_chain),
            Expr::Value(value) => literal(value),
            Expr::Nested(inner) => self.plan(inner),
            Expr::UnaryOp { op, expr } => self.unary(*op, expr, span),
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => {
                self.connective(expr, op, span)
            }
            Expr::BinaryOp { left, op, right } => {
                let (left, right) = (self.plan(left)?, self.plan(right)?);
                binary(left, op, right, span)
            }
            Expr::IsNull(e) => self.plan(e)?.null_test(span),
            Expr::IsNotNull(e) => self.plan(e)?.not_null_test(span),
            Expr::Between { expr, negated, low, high } => {
                let (value, low, high) = (self.plan(expr)?, self.plan(low)?, self.plan(high)?);
                let (below, above, both) = match negated {
                    true => (Operator::Lt, Operator::Gt, Operator::Or),
                    false => (Operator::GtEq, Operator::LtEq, Operator::And),
                };
                let (low, high) = (compare(value.clone(), below, low, span)?, compare(value, above, high, span)?);
                Typed::binary(low, both, high, DataType::Boolean, span)
            }
            Expr::InList { expr, list, negated } => self.in_list(expr, list, *negated, span),
            Expr::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, escape_char.as_ref(), *negated, span)
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                let operand = operand.as_ref().map(|o| self.plan(o)).transpose()?;
                let mut branches = Vec::with_capacity(conditions.len());
                for branch in conditions {
                    let condition = match &operand {
                        Some(operand) => compare(operand.clone(), Operator::Eq, self.plan(&branch.condition)?, span)?,
                        None => self.condition(&branch.condition)?,
                    };
                    branches.push((condition, self.plan(&branch.result)?));
                }
                let otherwise = match else_result {
                    Some(e) => self.plan(e)?,
                    None => Typed::null(&DataType::Null, span),
                };
                case(branches, otherwise, span)
            }
            Expr::Cast { kind, expr, data_type, format: None, .. } => {
                let value = self.plan(expr)?;
                let failure = match kind {
                    CastKind::TryCast | CastKind::SafeCast => Failure::Null,
                    CastKind::Cast | CastKind::DoubleColon => Failure::Error,
                };
                cast(value, &cast_target(data_type, span)?, failure)
            }
            Expr::Function(function) => self.function(function),
            Expr::Substring { expr, substring_from: Some(from), substring_for: Some(n), .. } => {
                let args = vec![self.plan(expr)?, self.plan(from)?, self.plan(n)?];
                call("substring", args, span)
            }
            Expr::Trim { expr, trim_where, trim_what: None, trim_characters: None } => {
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "trim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                let value = self.plan(expr)?;
                call(name, vec![value], span)
            }
            Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                let value = self.plan(expr)?;
                call("ceiling", vec![value], span)
            }
            Expr::Floor { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
                let value = self.plan(expr)?;
                call("floor", vec![value], span)
            }
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
                Err(QueryError::unsupported(span, "a subquery inside an expression")
                    .help("use a step of a WITH clause"))
            }
            other => Err(QueryError::at(span, format!("`{other}` is not an expression of the language"))),
        }
    }

    fn unary(&mut self, op: UnaryOperator, expr: &Expr, span: Span) -> Result<Typed, QueryError> {
        match op {
            UnaryOperator::Not => {
                let condition = self.condition(expr)?;
                Typed::binary(condition, Operator::IsDistinctFrom, bit(true, span), DataType::Boolean, span)
            }
            UnaryOperator::Minus => {
                if let Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) = expr {
                    return number(&format!("-{digits}"), span);
                }
                let value = to_number(self.plan(expr)?)?;
                Ok(Typed { expr: Arc::new(NegativeExpr::new(value.expr)), ..value })
            }
            UnaryOperator::Plus => to_number(self.plan(expr)?),
            UnaryOperator::BitwiseNot => {
                let value = self.plan(expr)?;
                call("bitnot", vec![value], span)
            }
            other => Err(QueryError::at(span, format!("`{other}` is not an operator of the language"))),
        }
    }

    /// A chain of AND or of OR: the text may chain hundreds. Where a term behind the first can fail on a value, the terms
    /// before it guard it row by row; otherwise all are evaluated on all rows, as a balanced tree.
    fn connective(&mut self, expr: &Expr, op: &BinaryOperator, span: Span) -> Result<Typed, QueryError> {
        let mut operands = Vec::new();
        let mut rest = expr;
        while let Expr::BinaryOp { left, op: same, right } = rest
            && same == op
        {
            operands.push(right.as_ref());
            rest = left;
        }
        operands.push(rest);
        let mut conditions = Vec::with_capacity(operands.len());
        for operand in operands.into_iter().rev() {
            conditions.push(self.condition(operand)?);
        }
        let and = *op == BinaryOperator::And;
        if conditions[1..].iter().all(|condition| cannot_fail(&condition.expr)) {
            return balanced(conditions, if and { Operator::And } else { Operator::Or }, span);
        }
        let Some(last) = conditions.pop() else { return Err(QueryError::at(span, "expected a condition")) };
        let decided = |condition: Typed| {
            let when = match and {
                // False or null hides what follows.
                true => Typed::binary(condition, Operator::IsDistinctFrom, bit(true, span), DataType::Boolean, span)?,
                false => condition,
            };
            Ok((when, bit(!and, span)))
        };
        let decided = conditions.into_iter().map(decided).collect::<Result<_, QueryError>>()?;
        Typed::case(decided, last, span)
    }

    fn in_list(&mut self, expr: &Expr, list: &[Expr], negated: bool, span: Span) -> Result<Typed, QueryError> {
        let value = self.plan(expr)?;
        let mut items = Vec::with_capacity(list.len());
        let mut target = value.data_type.clone();
        for item in list {
            let item = self.plan(item)?;
            // A comparison with NULL is false: it cannot match.
            if item.data_type == DataType::Null {
                continue;
            }
            target = comparison_type(&target, &item.data_type).ok_or_else(|| mismatch(&item, type_name(&target)))?;
            items.push(item);
        }
        let value = coerce(value, &target)?;
        let items = items.into_iter().map(|i| Ok(coerce(i, &target)?.expr)).collect::<Result<Vec<_>, QueryError>>()?;
        let list = InListExpr::try_new(value.expr, items, negated, &self.schema())
            .map_err(|e| QueryError::at(span, reason(&e)))?;
        Ok(Typed { expr: Arc::new(list), data_type: DataType::Boolean, span })
    }

    /// Types of all columns that expressions here can read.
    fn schema(&self) -> Schema {
        let width = self.first_aggregate + self.aggregates.len();
        let last = self.scope.columns.iter().map(|c| c.index).chain([self.scope.time]).max().unwrap_or(0);
        let mut fields: Vec<Field> =
            (0..width.max(last + 1)).map(|i| Field::new(i.to_string(), DataType::Null, true)).collect();
        for c in &self.scope.columns {
            fields[c.index] = Field::new(&c.name, c.data_type.clone(), true);
        }
        fields[self.scope.time] = Field::new(tidemill_engine::EVENT_TIME, datetime_type(), true);
        for a in &self.scope.analytics {
            fields[a.index] = Field::new(a.index.to_string(), a.data_type.clone(), true);
        }
        for (i, a) in self.aggregates.iter().enumerate() {
            fields[self.first_aggregate + i] = Field::new(&a.name, a.data_type.clone(), true);
        }
        Schema::new(fields)
    }

    fn like(
        &mut self,
        expr: &Expr,
        pattern: &Expr,
        escape: Option<&ValueWithSpan>,
        negated: bool,
        span: Span,
    ) -> Result<Typed, QueryError> {
        let text = coerce(self.plan(expr)?, &DataType::Utf8)?;
        let pattern = coerce(self.plan(pattern)?, &DataType::Utf8)?;
        // arrow's kernel is fast, but takes `\\` for an escape and knows no sets.
        let simple = match pattern.constant() {
            Some(ScalarValue::Utf8(Some(p))) => escape.is_none() && !p.contains(['[', '\\']),
            _ => false,
        };
        if simple {
            let like = LikeExpr::new(negated, false, text.expr, pattern.expr);
            return Ok(Typed { expr: Arc::new(like), data_type: DataType::Boolean, span });
        }
        let escape = match escape.map(|v| &v.value) {
            None => None,
            Some(Value::SingleQuotedString(s)) if s.chars().count() == 1 => s.chars().next(),
            Some(_) => return Err(QueryError::at(span, "ESCAPE takes one character")),
        };
        let like = Typed::call(Like::function(escape), vec![text, pattern], DataType::Boolean, span)?;
        if negated {
            // `x NOT LIKE y` is false for NULL, unlike NOT (x LIKE y).
            Typed::binary(like, Operator::Eq, bit(false, span), DataType::Boolean, span)
        } else {
            Ok(like)
        }
    }
}

/// Where an expression starts. Walks to the left without recursion: chains of operators may be long.
pub(crate) fn place(mut expr: &Expr) -> Span {
    loop {
        expr = match expr {
            Expr::BinaryOp { left, .. } => left,
            Expr::Between { expr, .. }
            | Expr::InList { expr, .. }
            | Expr::InSubquery { expr, .. }
            | Expr::Like { expr, .. }
            | Expr::CompoundFieldAccess { root: expr, .. }
            | Expr::AtTimeZone { timestamp: expr, .. }
            | Expr::Collate { expr, .. } => expr,
            Expr::Nested(e) | Expr::IsNull(e) | Expr::IsNotNull(e) | Expr::IsTrue(e) | Expr::IsFalse(e) => e,
            Expr::Function(f) => return name_span(f),
            Expr::Case { case_token, .. } => return case_token.0.span,
            Expr::UnaryOp { expr, .. } | Expr::Cast { expr, .. } => expr,
            Expr::Subquery(_) | Expr::Exists { .. } => return Span::empty(),
            leaf => return leaf.span(),
        };
    }
}

/// Whether an expression gives a value for every row: columns, constants, comparisons and what joins them.
fn cannot_fail(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let total = expr.is::<Column>()
        || expr.is::<Literal>()
        || expr.is::<IsNullExpr>()
        || expr.is::<IsNotNullExpr>()
        || expr.is::<NotExpr>()
        || expr.is::<LikeExpr>()
        || expr.is::<InListExpr>()
        || expr.downcast_ref::<BinaryExpr>().is_some_and(|b| !b.op().is_numerical_operators());
    total && expr.children().into_iter().all(cannot_fail)
}
