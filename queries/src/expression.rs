//! Expressions of the text as typed physical expressions.
//!
//! Names are resolved, types converted and constants evaluated in one pass. Conditions are two-valued as in ASA: a
//! comparison with NULL counts as false, so that `NOT` makes it true. AND and OR need nothing for that (a row passes only
//! if the condition is true), NOT becomes `IS NOT TRUE`.

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
        AccessExpr, BinaryOperator, CastKind, CeilFloorKind, DateTimeField, Expr, Function, FunctionArg,
        FunctionArgExpr, FunctionArguments, Ident, ObjectNamePart, Spanned, TrimWhereField, UnaryOperator, Value,
        ValueWithSpan,
    },
    tokenizer::Span,
};
use tidemill_engine::{any::any_type, datetime_type};

use crate::{
    aggregates::{self, AggregateCall},
    analytic,
    coercion::{cast_target, coerce, comparison_type, mismatch, to_number, type_name},
    error::{QueryError, reason},
    functions::{self, Part, conversion::Failure, pattern::Like, record::Row},
    graph::columns_of,
    operators::{balanced, binary, bit, call, case, cast, coalesce, compare, literal, number},
    rank, ranked,
    scope::{Scope, field},
    typed::Typed,
    windows::{arguments, asa_window, function_name, name_span},
};

/// Expressions nested deeper are refused; each level costs stack here, in evaluation and when dropped.
const MAX_DEPTH: usize = 128;

/// Functions of the language that give rows, not a value.
const OF_APPLY: &[&str] = &["getarrayelements", "getrecordproperties"];

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

    /// A column, an alias, or what a name means that is none.
    fn name(&mut self, name: &Ident) -> Result<Typed, QueryError> {
        if let Some((_, item)) = self.aliases.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(&name.value)) {
            return Ok(item.clone());
        }
        match self.scope.find(&name.value, name.span)? {
            Some(_) => self.column(name, None),
            // A source, where no column has its name: the record of its columns.
            None if self.scope.relation(&name.value).is_some() => self.record_of(name),
            // `"text"` is text where it is no column.
            None if name.quote_style == Some('"') => Ok(Typed::text(name.value.clone(), name.span)),
            None if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("true") => Ok(bit(true, name.span)),
            None if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("false") => Ok(bit(false, name.span)),
            None => Err(self.scope.unknown(name)),
        }
    }

    /// The columns of a source as one record.
    fn record_of(&mut self, name: &Ident) -> Result<Typed, QueryError> {
        let record = Row::of(self.scope, self.scope.relation(&name.value), name.span)?;
        self.used.extend(columns_of(&record.expr).into_iter().map(|c| (c, name.span)));
        Ok(record)
    }

    fn column_or_source(&mut self, name: &Ident) -> Result<Typed, QueryError> {
        match (self.scope.find(&name.value, name.span)?, self.scope.source_time(name)) {
            (None, Some(time)) => Ok(time),
            _ => self.name(name),
        }
    }

    fn column(&mut self, name: &Ident, relation: Option<usize>) -> Result<Typed, QueryError> {
        let column = self.scope.column(name, relation)?;
        self.used.extend(column.expr.downcast_ref::<Column>().map(|c| (c.index(), name.span)));
        Ok(column)
    }

    /// `[relation.]column[.field ...]`; a column wins over a relation of the same name unless it has no such field.
    fn path(&mut self, path: &[Ident]) -> Result<Typed, QueryError> {
        let [first, rest @ ..] = path else { return Err(QueryError::at(Span::empty(), "empty name")) };
        if is_system(first) && rest.len() == 1 && rest[0].value.eq_ignore_ascii_case("timestamp") {
            return Ok(self.scope.time(first.span));
        }
        let column = self.scope.find(&first.value, first.span)?;
        let is_record = column.is_some_and(|c| matches!(c.data_type, DataType::Struct(_)));
        let (mut value, fields) = match (rest, self.scope.relation(&first.value)) {
            ([column, fields @ ..], Some(relation)) if !is_record => (self.column(column, Some(relation))?, fields),
            _ if column.is_none() => {
                let known: Vec<&str> = self.scope.relations.iter().flatten().map(String::as_str).collect();
                return Err(QueryError::unknown(first.span, "input or record", &first.value, &known));
            }
            _ => (self.name(first)?, rest),
        };
        for name in fields {
            value = field(value, name)?;
        }
        Ok(value)
    }

    /// `f(x).field`; `System.Window().Id`.
    fn access(&mut self, root: &Expr, chain: &[AccessExpr]) -> Result<Typed, QueryError> {
        if let (
            Expr::Identifier(system),
            [AccessExpr::Dot(Expr::Function(window)), AccessExpr::Dot(Expr::Identifier(id))],
        ) = (root, chain)
            && is_system(system)
            && function_name(window) == "window"
            && id.value.eq_ignore_ascii_case("id")
        {
            return Ok(self.window_id(id.span));
        }
        let (mut value, chain) = match (root, chain) {
            // `udf.f(x).field`
            (Expr::Identifier(family), [AccessExpr::Dot(Expr::Function(call)), rest @ ..]) if is_user_code(family) => {
                let mut call = call.clone();
                call.name.0.insert(0, ObjectNamePart::Identifier(family.clone()));
                (self.function(&call)?, rest)
            }
            _ => (self.plan(root)?, chain),
        };
        for step in chain {
            match step {
                AccessExpr::Dot(Expr::Identifier(name)) => value = field(value, name)?,
                _ => {
                    return Err(QueryError::at(value.span, "the language has no subscripts")
                        .help("use GetArrayElement(array, position)"));
                }
            }
        }
        Ok(value)
    }

    /// `System.Window().Id`: NULL where no window has an id.
    fn window_id(&self, span: Span) -> Typed {
        self.window_id.clone().unwrap_or_else(|| Typed::null(&DataType::Utf8, span))
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

    fn function(&mut self, function: &Function) -> Result<Typed, QueryError> {
        let span = name_span(function);
        let name = function_name(function);
        if analytic::is_analytic(function) {
            let column = analytic::column(function, self.scope, span)?;
            self.used.extend(column.expr.downcast_ref::<Column>().map(|c| (c.index(), span)));
            return Ok(column);
        }
        if rank::is_row_number(function) {
            return match self.scope.analytics.iter().find(|a| a.function == *function) {
                Some(column) => Ok(Typed::column(&name, column.index, column.data_type.clone(), span)),
                None => Err(QueryError::at(span, "ROW_NUMBER stands in the list of a SELECT without GROUP BY")
                    .help("number the rows of a subquery")),
            };
        }
        if ranked::is_ranked(&name) {
            return self.ranked(&name, function, span);
        }
        if function.over.is_some() {
            return Err(QueryError::unsupported(span, format!("`{name}(...)` with OVER")));
        }
        if let Some(name) = name.strip_prefix("udf.") {
            plain_call(function, span)?;
            let args = arguments(function)?.into_iter().map(|a| self.plan(a)).collect::<Result<Vec<_>, _>>()?;
            return self.scope.functions.find(name, span)?.call(args, span);
        }
        if let Some(name) = name.strip_prefix("uda.") {
            plain_call(function, span)?;
            return self.user_aggregate(name, function, span);
        }
        if OF_APPLY.contains(&name.as_str()) {
            return Err(QueryError::at(span, format!("`{}` gives rows, not a value", function.name))
                .help(format!("write FROM t CROSS APPLY {}(x) AS e", function.name)));
        }
        plain_call(function, span)?;
        if let FunctionArguments::List(list) = &function.args {
            let distinct = matches!(list.duplicate_treatment, Some(sqlparser::ast::DuplicateTreatment::Distinct));
            if !list.clauses.is_empty() || distinct && !aggregates::is_aggregate(&name) {
                return Err(QueryError::unsupported(
                    span,
                    format!("`{}` with a clause among its arguments", function.name),
                ));
            }
        }
        match name.as_str() {
            "system.timestamp" => Ok(self.scope.time(span)),
            "system.window" => Row::with(vec![("Id".to_owned(), self.window_id(span))], span),
            name if aggregates::is_aggregate(name) => self.aggregate(name, function, span),
            "iif" => {
                let [condition, then, otherwise] = self.exactly(function, "iif")?;
                let condition = self.condition(condition)?;
                let (then, otherwise) = (self.plan(then)?, self.plan(otherwise)?);
                case(vec![(condition, then)], otherwise, span)
            }
            "coalesce" => {
                let args = arguments(function)?.into_iter().map(|a| self.plan(a)).collect::<Result<Vec<_>, _>>()?;
                coalesce(args, span)
            }
            "isnull" => {
                let [a, b] = self.exactly(function, "isnull")?;
                coalesce(vec![self.plan(a)?, self.plan(b)?], span)
            }
            "newguid" => {
                let [] = self.exactly(function, "newguid")?;
                self.guids += 1;
                self.scope.guid(self.guids, span)
            }
            "nullif" => {
                let [a, b] = self.exactly(function, "nullif")?;
                let (a, b) = (self.plan(a)?, self.plan(b)?);
                let equal = compare(a.clone(), Operator::Eq, b, span)?;
                let null = Typed::null(&a.data_type, span);
                case(vec![(equal, null)], a, span)
            }
            "getmetadatapropertyvalue" => {
                let [_, path] = self.exactly(function, "GetMetadataPropertyValue")?;
                let path = self.constant_text(path)?;
                self.scope.metadata(&path, span)
            }
            "getrecordpropertyvalue" => {
                let [record, name] = self.exactly(function, "GetRecordPropertyValue")?;
                let (record, at, name) = (self.plan(record)?, place(name), self.plan(name)?);
                // A field that is named in the text has its own type.
                match (&record.data_type, name.constant()) {
                    (DataType::Struct(fields), Some(ScalarValue::Utf8(Some(constant))))
                        if fields.iter().any(|f| f.name().eq_ignore_ascii_case(constant)) =>
                    {
                        field(record, &Ident::with_span(at, constant))
                    }
                    (DataType::Struct(_) | DataType::LargeUtf8 | DataType::Null, _) => {
                        call("getrecordpropertyvalue", vec![record, name], span)
                    }
                    _ => Err(mismatch(&record, "a record")),
                }
            }
            name => match functions::find(name) {
                Some(found) => {
                    let args = arguments(function)?
                        .into_iter()
                        .enumerate()
                        .map(|(i, arg)| match arg {
                            _ if found.takes_part(i) => part(arg),
                            // The language's DATEDIFF of two sources of a join.
                            Expr::Identifier(source) if name == "datediff" => self.column_or_source(source),
                            _ => self.plan(arg),
                        })
                        .collect::<Result<_, _>>()?;
                    found.call(args, span)
                }
                None if asa_window(&Expr::Function(function.clone())).is_some() => {
                    Err(QueryError::at(span, format!("`{}` belongs in GROUP BY", function.name)))
                }
                None => Err(unknown_function(function, span)),
            },
        }
    }

    fn exactly<'f, const N: usize>(&self, function: &'f Function, name: &str) -> Result<[&'f Expr; N], QueryError> {
        let args = arguments(function)?;
        let found = args.len();
        args.try_into()
            .map_err(|_| QueryError::at(name_span(function), format!("`{name}` takes {N} arguments, found {found}")))
    }

    fn constant_text(&mut self, expr: &Expr) -> Result<String, QueryError> {
        match self.plan(expr)?.constant() {
            Some(ScalarValue::Utf8(Some(text))) => Ok(text.clone()),
            _ => Err(QueryError::at(place(expr), "expected a text in quotes")),
        }
    }

    fn aggregate(&mut self, name: &str, function: &Function, span: Span) -> Result<Typed, QueryError> {
        if let Some(reason) = self.no_aggregates {
            return Err(QueryError::at(span, reason));
        }
        let FunctionArguments::List(list) = &function.args else {
            return Err(QueryError::at(span, format!("`{name}` takes one argument")));
        };
        let distinct = matches!(list.duplicate_treatment, Some(sqlparser::ast::DuplicateTreatment::Distinct));
        let one = Typed::literal(ScalarValue::Int64(Some(1)), span);
        let mut bare = false;
        let arg = match list.args.as_slice() {
            [] | [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if name == "count" && !distinct => one,
            // COUNT(input) counts rows.
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(i)))]
                if name == "count"
                    && !distinct
                    && self.scope.relation(&i.value).is_some()
                    && self.scope.find(&i.value, i.span)?.is_none() =>
            {
                one
            }
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(e))] => {
                bare = matches!(e, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
                let arg = self.argument_of_aggregate(e)?;
                if matches!(name, "min" | "max") { self.rows.as_time(arg)? } else { arg }
            }
            _ => return Err(QueryError::at(span, format!("`{name}` takes one argument"))),
        };
        if bare && self.scope.declared && arg.data_type == DataType::Utf8 && aggregates::is_arithmetic(name) {
            let message = format!("`{name}` expects a number, found a column declared as nvarchar(max)");
            return Err(QueryError::at(arg.span, message)
                .help("declare it as bigint or float, or CAST it where its text is a number"));
        }
        let call = aggregates::call(name, arg, distinct, bare, span)?;
        Ok(self.aggregate_column(call, name, span))
    }

    /// An aggregate that takes the rows of the window in an order.
    fn ranked(&mut self, name: &str, function: &Function, span: Span) -> Result<Typed, QueryError> {
        if let Some(reason) = self.no_aggregates {
            return Err(QueryError::at(span, reason));
        }
        let mut inner = Expressions::plain(self.rows, "an aggregate cannot be used inside an aggregate");
        inner.depth = self.depth;
        let call = ranked::call(name, function, self.rows, self.order.as_ref(), &mut inner, span)?;
        Ok(self.aggregate_column(call, name, span))
    }

    /// `uda.name(x)`.
    fn user_aggregate(&mut self, name: &str, function: &Function, span: Span) -> Result<Typed, QueryError> {
        if let Some(reason) = self.no_aggregates {
            return Err(QueryError::at(span, reason));
        }
        let [arg] = self.exactly(function, name)?;
        let value = coerce(self.argument_of_aggregate(arg)?, &any_type())?;
        let function = self.scope.functions.find(name, span)?;
        let args = vec![value, self.rows.time(span)];
        let call = AggregateCall::of(function.aggregate(span)?, args, any_type());
        function.result(self.aggregate_column(call, name, span))
    }

    fn aggregate_column(&mut self, call: AggregateCall, name: &str, span: Span) -> Typed {
        let data_type = call.data_type.clone();
        let at = self.aggregates.iter().position(|a| *a == call).unwrap_or_else(|| {
            self.aggregates.push(call);
            self.aggregates.len() - 1
        });
        Typed::column(name, self.first_aggregate + at, data_type, span)
    }

    /// Planned over the rows that go into the window: no aliases, no aggregates.
    fn argument_of_aggregate(&self, expr: &Expr) -> Result<Typed, QueryError> {
        let mut inner = Expressions::plain(self.rows, "an aggregate cannot be used inside an aggregate");
        inner.depth = self.depth;
        inner.plan(expr)
    }
}

fn is_user_code(name: &Ident) -> bool {
    name.quote_style.is_none() && ["udf", "uda"].iter().any(|family| name.value.eq_ignore_ascii_case(family))
}

/// Refuses what can stand behind a call and is not of the language.
fn plain_call(function: &Function, span: Span) -> Result<(), QueryError> {
    let extra = function.filter.is_some() || function.null_treatment.is_some() || !function.within_group.is_empty();
    match extra {
        true => Err(QueryError::unsupported(span, "FILTER, WITHIN GROUP or null treatment of a function")),
        false => Ok(()),
    }
}

fn is_system(name: &Ident) -> bool {
    name.quote_style.is_none() && name.value.eq_ignore_ascii_case("system")
}

fn unknown_function(function: &Function, span: Span) -> QueryError {
    let forms = functions::forms::FORMS.iter().map(|f| f.name).filter(|name| !name.is_empty());
    let known: Vec<&str> = functions::scalar().map(|f| f.name).chain(forms).collect();
    let error = QueryError::unknown(span, "function", &function.name.to_string(), &known);
    // The list of all functions would be no help.
    QueryError { message: format!("unknown function `{}`", function.name), ..error }
}

/// Name of a part of a datetime, as a constant.
fn part(expr: &Expr) -> Result<Typed, QueryError> {
    let name = match expr {
        Expr::Identifier(name) => &name.value,
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(name), .. }) => name,
        _ => return Err(QueryError::at(place(expr), "expected a part of a datetime").help(Part::HELP)),
    };
    if Part::parse(name).is_none() {
        return Err(QueryError::at(place(expr), format!("`{name}` is not a part of a datetime")).help(Part::HELP));
    }
    Ok(Typed::text(name.to_ascii_lowercase(), place(expr)))
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
