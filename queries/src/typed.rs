//! A planned expression with its type and its place in the text.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, Schema},
};
use datafusion_common::{ScalarValue, config::ConfigOptions};
use datafusion_expr::{Operator, ScalarUDF};
use datafusion_physical_expr::{
    PhysicalExpr, ScalarFunctionExpr,
    expressions::{BinaryExpr, CaseExpr, Column, IsNotNullExpr, IsNullExpr, Literal},
};
use sqlparser::tokenizer::Span;

use crate::error::{QueryError, reason};

/// Evaluated over batches whose columns are the scope's.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    pub(crate) expr: Arc<dyn PhysicalExpr>,
    pub(crate) data_type: DataType,
    pub(crate) span: Span,
}

impl Typed {
    pub(crate) fn literal(value: ScalarValue, span: Span) -> Self {
        Self { data_type: value.data_type(), expr: Arc::new(Literal::new(value)), span }
    }

    pub(crate) fn text(value: impl Into<String>, span: Span) -> Self {
        Self::literal(ScalarValue::Utf8(Some(value.into())), span)
    }

    pub(crate) fn null(data_type: &DataType, span: Span) -> Self {
        let value = ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null);
        Self { expr: Arc::new(Literal::new(value)), data_type: data_type.clone(), span }
    }

    pub(crate) fn column(name: &str, index: usize, data_type: DataType, span: Span) -> Self {
        Self { expr: Arc::new(Column::new(name, index)), data_type, span }
    }

    /// The value of a constant.
    pub(crate) fn constant(&self) -> Option<&ScalarValue> {
        self.expr.downcast_ref::<Literal>().map(Literal::value)
    }

    pub(crate) fn at(self, span: Span) -> Self {
        Self { span, ..self }
    }

    pub(crate) fn binary(
        left: Self,
        op: Operator,
        right: Self,
        data_type: DataType,
        span: Span,
    ) -> Result<Self, QueryError> {
        // A bigint that overflows is an error, not another number.
        let expr = BinaryExpr::new(left.expr, op, right.expr).with_fail_on_overflow(true);
        Self { expr: Arc::new(expr), data_type, span }.folded()
    }

    pub(crate) fn null_test(self, span: Span) -> Result<Self, QueryError> {
        Self { expr: Arc::new(IsNullExpr::new(self.expr)), data_type: DataType::Boolean, span }.folded()
    }

    pub(crate) fn not_null_test(self, span: Span) -> Result<Self, QueryError> {
        Self { expr: Arc::new(IsNotNullExpr::new(self.expr)), data_type: DataType::Boolean, span }.folded()
    }

    /// `CASE WHEN condition THEN value ... ELSE otherwise END`; all values of one type.
    pub(crate) fn case(branches: Vec<(Self, Self)>, otherwise: Self, span: Span) -> Result<Self, QueryError> {
        let data_type = otherwise.data_type.clone();
        let branches = branches.into_iter().map(|(when, then)| (when.expr, then.expr)).collect();
        let expr =
            CaseExpr::try_new(None, branches, Some(otherwise.expr)).map_err(|e| QueryError::at(span, reason(&e)))?;
        Self { expr: Arc::new(expr), data_type, span }.folded()
    }

    pub(crate) fn call(
        function: ScalarUDF,
        args: Vec<Self>,
        data_type: DataType,
        span: Span,
    ) -> Result<Self, QueryError> {
        let field = Arc::new(Field::new(function.name(), data_type.clone(), true));
        let name = function.name().to_owned();
        let args = args.into_iter().map(|a| a.expr).collect();
        let call = ScalarFunctionExpr::new(&name, Arc::new(function), args, field, Arc::new(ConfigOptions::default()));
        Self { expr: Arc::new(call), data_type, span }.folded()
    }

    /// Evaluates it now if it is made of constants; what fails then would fail on each row.
    fn folded(self) -> Result<Self, QueryError> {
        let children = self.expr.children();
        if children.is_empty() || !children.iter().all(|c| c.is::<Literal>()) {
            return Ok(self);
        }
        let value = evaluate_once(&self.expr).map_err(|e| QueryError::at(self.span, e))?;
        let value = ScalarValue::try_from_array(&value, 0).map_err(|e| QueryError::at(self.span, reason(&e)))?;
        Ok(Self { expr: Arc::new(Literal::new(value)), ..self })
    }
}

fn evaluate_once(expr: &Arc<dyn PhysicalExpr>) -> Result<ArrayRef, String> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch =
        RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).map_err(|e| e.to_string())?;
    expr.evaluate(&batch).and_then(|v| v.into_array(1)).map_err(|e| reason(&e))
}
