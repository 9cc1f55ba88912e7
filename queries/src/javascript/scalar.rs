//! `udf.name(x, ...)`: one call for each row.

use std::sync::Arc;

use arrow::{array::LargeStringBuilder, datatypes::DataType};
use datafusion_common::Result;
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sqlparser::tokenizer::Span;
use tidemill_engine::any::any_type;

use super::{OnError, Script, engine};
use crate::{error::QueryError, functions::rows::invoke, typed::Typed};

pub(super) fn call(
    script: &Arc<Script>,
    on_error: OnError,
    args: Vec<Typed>,
    span: Span,
) -> std::result::Result<Typed, QueryError> {
    let signature = Signature::variadic_any(Volatility::Immutable);
    let function = ScalarUDF::new_from_impl(Call { script: Arc::clone(script), on_error, signature });
    Typed::call(function, args, any_type(), span)
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Call {
    script: Arc<Script>,
    pub(super) on_error: OnError,
    signature: Signature,
}

impl ScalarUDFImpl for Call {
    fn name(&self) -> &str {
        &self.script.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(any_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        invoke(&args, |args| {
            let mut out = LargeStringBuilder::new();
            engine::each_row(
                &self.script,
                args.rows(),
                args.len(),
                |converter, call, row| {
                    (0..args.len())
                        .try_for_each(|arg| call.push_arg(converter.value(args.column(arg), args.index(arg, row))?))
                },
                |converter, value| {
                    match converter.write(&value, &mut out)? {
                        true => out.append_value(""),
                        false => out.append_null(),
                    }
                    Ok(())
                },
                |message| self.script.failed(self.on_error, message),
            )?;
            Ok(Arc::new(out.finish()))
        })
    }
}
