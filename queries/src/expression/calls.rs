//! Calls of functions: those of the language, its forms with rules of their own, and a user's.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::Column;
use sqlparser::{
    ast::{DuplicateTreatment, Expr, Function, FunctionArguments, Ident, Value, ValueWithSpan},
    tokenizer::Span,
};

use super::{Expressions, place};
use crate::{
    aggregates, analytic,
    coercion::mismatch,
    error::QueryError,
    functions::{self, Part, record::Row},
    operators::{call, case, coalesce, compare},
    rank, ranked,
    scope::field,
    typed::Typed,
    windows::{arguments, asa_window, function_name, name_span},
};

/// Functions of the language that give rows, not a value.
const OF_APPLY: &[&str] = &["getarrayelements", "getrecordproperties"];

impl Expressions<'_> {
    pub(super) fn function(&mut self, function: &Function) -> Result<Typed, QueryError> {
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
            let distinct = matches!(list.duplicate_treatment, Some(DuplicateTreatment::Distinct));
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

    pub(super) fn exactly<'f, const N: usize>(
        &self,
        function: &'f Function,
        name: &str,
    ) -> Result<[&'f Expr; N], QueryError> {
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
}

/// Refuses what can stand behind a call and is not of the language.
fn plain_call(function: &Function, span: Span) -> Result<(), QueryError> {
    let extra = function.filter.is_some() || function.null_treatment.is_some() || !function.within_group.is_empty();
    match extra {
        true => Err(QueryError::unsupported(span, "FILTER, WITHIN GROUP or null treatment of a function")),
        false => Ok(()),
    }
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
