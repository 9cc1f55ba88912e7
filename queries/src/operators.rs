//! What literals, operators and forms such as CASE and CAST mean for typed values.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use sqlparser::{
    ast::{BinaryOperator, Value, ValueWithSpan},
    tokenizer::Span,
};

use tidemill_engine::any::any_type;

use crate::{
    coercion::{CastTarget, coerce, common_type, comparison_type, to_number, type_name, unify},
    error::QueryError,
    functions::{
        self,
        conversion::{Failure, convert, only},
    },
    typed::Typed,
};

pub(crate) fn bit(value: bool, span: Span) -> Typed {
    Typed::literal(ScalarValue::Boolean(Some(value)), span)
}

pub(crate) fn literal(value: &ValueWithSpan) -> Result<Typed, QueryError> {
    let span = value.span;
    match &value.value {
        Value::Number(digits, _) => number(digits, span),
        Value::SingleQuotedString(s) | Value::NationalStringLiteral(s) | Value::DoubleQuotedString(s) => {
            Ok(Typed::text(s.clone(), span))
        }
        Value::Boolean(b) => Ok(bit(*b, span)),
        Value::Null => Ok(Typed::null(&DataType::Null, span)),
        other => Err(QueryError::at(span, format!("`{other}` is not a value of the language"))),
    }
}

/// With a point or an exponent a float, else a bigint.
pub(crate) fn number(digits: &str, span: Span) -> Result<Typed, QueryError> {
    let value = if digits.contains(['.', 'e', 'E']) {
        digits.parse().ok().filter(|x: &f64| x.is_finite()).map(|x| ScalarValue::Float64(Some(x)))
    } else {
        digits.parse().ok().map(|n| ScalarValue::Int64(Some(n)))
    };
    match value {
        Some(value) => Ok(Typed::literal(value, span)),
        None => Err(QueryError::at(span, format!("`{digits}` does not fit bigint or float"))),
    }
}

pub(crate) fn call(name: &str, args: Vec<Typed>, span: Span) -> Result<Typed, QueryError> {
    match functions::find(name) {
        Some(function) => function.call(args, span),
        None => Err(QueryError::at(span, format!("unknown function `{name}`"))),
    }
}

pub(crate) fn cast(value: Typed, target: &CastTarget, failure: Failure) -> Result<Typed, QueryError> {
    match (target, &value.data_type) {
        (CastTarget::Type(target), _) => convert(value, target, failure),
        (CastTarget::Array, DataType::List(_)) | (CastTarget::Record, DataType::Struct(_)) => Ok(value),
        // What the elements of an array among mixed values are is known only in each row.
        (CastTarget::Array, _) => convert(value, &DataType::new_list(any_type(), true), failure),
        (CastTarget::Record, DataType::Utf8 | DataType::LargeUtf8) => only(value, "record", failure),
        (CastTarget::Record, _) => match failure {
            Failure::Null => Ok(Typed::null(&DataType::Utf8, value.span)),
            Failure::Error => {
                Err(QueryError::at(value.span, format!("cannot cast {} to record", type_name(&value.data_type))))
            }
        },
    }
}

pub(crate) fn case(branches: Vec<(Typed, Typed)>, otherwise: Typed, span: Span) -> Result<Typed, QueryError> {
    let (conditions, mut values): (Vec<_>, Vec<_>) = branches.into_iter().unzip();
    values.push(otherwise);
    let mut values = unify(values)?;
    let Some(otherwise) = values.pop() else { return Err(QueryError::at(span, "CASE has no branch")) };
    Typed::case(conditions.into_iter().zip(values).collect(), otherwise, span)
}

pub(crate) fn coalesce(args: Vec<Typed>, span: Span) -> Result<Typed, QueryError> {
    let mut args = unify(args)?;
    let Some(last) = args.pop() else {
        return Err(QueryError::at(span, "`coalesce` takes at least 1 argument, found 0"));
    };
    if args.is_empty() {
        return Ok(last);
    }
    let branches =
        args.into_iter().map(|a| Ok((a.clone().not_null_test(span)?, a))).collect::<Result<Vec<_>, QueryError>>()?;
    Typed::case(branches, last, span)
}

pub(crate) fn balanced(mut conditions: Vec<Typed>, op: Operator, span: Span) -> Result<Typed, QueryError> {
    while conditions.len() > 1 {
        let mut paired = Vec::with_capacity(conditions.len().div_ceil(2));
        let mut rest = conditions.into_iter();
        while let Some(left) = rest.next() {
            paired.push(match rest.next() {
                Some(right) => Typed::binary(left, op, right, DataType::Boolean, span)?,
                None => left,
            });
        }
        conditions = paired;
    }
    conditions.pop().ok_or_else(|| QueryError::at(span, "expected a condition"))
}

pub(crate) fn binary(left: Typed, op: &BinaryOperator, right: Typed, span: Span) -> Result<Typed, QueryError> {
    let operator = match op {
        BinaryOperator::Eq => return compare(left, Operator::Eq, right, span),
        BinaryOperator::NotEq => return compare(left, Operator::NotEq, right, span),
        BinaryOperator::Lt => return compare(left, Operator::Lt, right, span),
        BinaryOperator::LtEq => return compare(left, Operator::LtEq, right, span),
        BinaryOperator::Gt => return compare(left, Operator::Gt, right, span),
        BinaryOperator::GtEq => return compare(left, Operator::GtEq, right, span),
        BinaryOperator::BitwiseAnd => return call("bitand", vec![left, right], span),
        BinaryOperator::BitwiseOr => return call("bitor", vec![left, right], span),
        BinaryOperator::BitwiseXor => return call("bitxor", vec![left, right], span),
        // `a + b` of text joins them; unlike CONCAT it is null when either is.
        BinaryOperator::Plus if joins_text(&left, &right) => {
            let (left, right) = (coerce(left, &DataType::Utf8)?, coerce(right, &DataType::Utf8)?);
            return Typed::binary(left, Operator::StringConcat, right, DataType::Utf8, span);
        }
        BinaryOperator::StringConcat => {
            let (left, right) = (coerce(left, &DataType::Utf8)?, coerce(right, &DataType::Utf8)?);
            return Typed::binary(left, Operator::StringConcat, right, DataType::Utf8, span);
        }
        BinaryOperator::Plus => Operator::Plus,
        BinaryOperator::Minus => Operator::Minus,
        BinaryOperator::Multiply => Operator::Multiply,
        BinaryOperator::Divide => Operator::Divide,
        BinaryOperator::Modulo => Operator::Modulo,
        other => return Err(QueryError::at(span, format!("`{other}` is not an operator of the language"))),
    };
    let (left, right) = (to_number(left)?, to_number(right)?);
    let target = common_type(&left.data_type, &right.data_type).unwrap_or(DataType::Float64);
    let (left, right) = (coerce(left, &target)?, coerce(right, &target)?);
    Typed::binary(left, operator, right, target, span)
}

/// Whether `+` joins: text with text, or with a value of any type.
fn joins_text(left: &Typed, right: &Typed) -> bool {
    use DataType::{LargeUtf8, Utf8};
    matches!((&left.data_type, &right.data_type), (Utf8, Utf8 | LargeUtf8) | (LargeUtf8, Utf8))
}

pub(crate) fn compare(left: Typed, op: Operator, right: Typed, span: Span) -> Result<Typed, QueryError> {
    let Some(target) = comparison_type(&left.data_type, &right.data_type) else {
        let (a, b) = (type_name(&left.data_type), type_name(&right.data_type));
        return Err(QueryError::at(span, format!("cannot compare {a} with {b}")));
    };
    let ordered = !matches!(op, Operator::Eq | Operator::NotEq);
    if ordered && left.data_type == DataType::LargeUtf8 && right.data_type == DataType::LargeUtf8 {
        return Err(QueryError::at(span, "the order of two values whose types are not known depends on their types")
            .help("CAST or TRY_CAST one of them, e.g. to float"));
    }
    let (left, right) = (coerce(left, &target)?, coerce(right, &target)?);
    Typed::binary(left, op, right, DataType::Boolean, span)
}

#[cfg(test)]
mod tests;
