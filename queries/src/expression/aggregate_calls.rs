//! Calls of aggregates, in a scope that has them: each different one becomes a column of the aggregation's result.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use sqlparser::{
    ast::{DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments},
    tokenizer::Span,
};
use tidemill_engine::any::any_type;

use super::Expressions;
use crate::{
    aggregates::{self, AggregateCall},
    coercion::coerce,
    error::QueryError,
    ranked,
    typed::Typed,
};

impl Expressions<'_> {
    pub(super) fn aggregate(&mut self, name: &str, function: &Function, span: Span) -> Result<Typed, QueryError> {
        if let Some(reason) = self.no_aggregates {
            return Err(QueryError::at(span, reason));
        }
        let FunctionArguments::List(list) = &function.args else {
            return Err(QueryError::at(span, format!("`{name}` takes one argument")));
        };
        let distinct = matches!(list.duplicate_treatment, Some(DuplicateTreatment::Distinct));
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
    pub(super) fn ranked(&mut self, name: &str, function: &Function, span: Span) -> Result<Typed, QueryError> {
        if let Some(reason) = self.no_aggregates {
            return Err(QueryError::at(span, reason));
        }
        let mut inner = Expressions::plain(self.rows, "an aggregate cannot be used inside an aggregate");
        inner.depth = self.depth;
        let call = ranked::call(name, function, self.rows, self.order.as_ref(), &mut inner, span)?;
        Ok(self.aggregate_column(call, name, span))
    }

    /// `uda.name(x)`.
    pub(super) fn user_aggregate(&mut self, name: &str, function: &Function, span: Span) -> Result<Typed, QueryError> {
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
