//! The scalar functions. [`GROUPS`] lists them all; each is a row-by-row rule over Arrow columns, called through one
//! adapter to DataFusion's `ScalarUDF`. Text positions count characters from 1; null arguments give null unless a
//! function says otherwise.

mod bits;
pub(crate) mod conversion;
mod datetime;
pub(crate) mod forms;
mod geospatial;
pub(crate) mod hash;
pub(crate) mod json;
mod math;
pub(crate) mod pattern;
pub(crate) mod record;
pub(crate) mod reference;
mod regular_expression;
pub(crate) mod rows;
mod string;
#[cfg(test)]
mod tests;
mod wkt;
mod zone;

use std::hash::{Hash, Hasher};

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sqlparser::tokenizer::Span;
use tidemill_engine::{any::any_type, datetime_type};

use crate::{
    coercion::{coerce, mismatch, to_number},
    error::QueryError,
    typed::Typed,
};
pub(crate) use datetime::Part;
use reference::FunctionDoc;
pub(crate) use rows::Args;

/// What an argument has to be, and so what it is converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// Text; numbers, bits and datetimes are written out.
    Text,
    /// A whole number; fractions are cut off.
    Int,
    /// A float.
    Float,
    /// A bigint or a float, as it comes.
    Number,
    /// A bit or a bigint.
    Bits,
    /// A datetime, or ISO 8601 text.
    Time,
    /// Name of a part of a datetime, e.g. `minute`.
    Part,
    /// An array, or a value that may be one.
    Array,
    /// A GeoJSON record, or text: GeoJSON or WKT.
    Geometry,
    /// Anything.
    Any,
}

/// Type of a function's result.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Returns {
    Text,
    Int,
    Float,
    Time,
    /// That of the first argument.
    First,
    /// That of the elements of the first argument.
    Element,
    /// A value that has its own type in each row.
    Any,
    /// A GeoJSON record whose coordinates are nested this deep.
    Geometry(usize),
}

/// A scalar function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    args: &'static [Arg],
    /// How many of `args` may be left out, from the end.
    optional: usize,
    /// Whether the last argument may be repeated.
    repeats: bool,
    returns: Returns,
    evaluate: fn(&Args) -> Result<ArrayRef>,
    doc: FunctionDoc,
}

const fn function(
    name: &'static str,
    args: &'static [Arg],
    returns: Returns,
    evaluate: fn(&Args) -> Result<ArrayRef>,
) -> Function {
    Function { name, args, optional: 0, repeats: false, returns, evaluate, doc: FunctionDoc::NONE }
}

impl Function {
    /// The last `n` arguments may be left out.
    const fn optional(self, n: usize) -> Self {
        Self { optional: n, ..self }
    }

    /// The last argument may be repeated.
    const fn repeats(self) -> Self {
        Self { repeats: true, ..self }
    }

    const fn doc_of(
        self,
        signature: &'static str,
        meaning: &'static str,
        examples: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { doc: FunctionDoc { signature, meaning, examples, ..self.doc }, ..self }
    }

    /// What becomes of NULL, where it is not NULL.
    const fn nulls(self, nulls: &'static str) -> Self {
        Self { doc: FunctionDoc { nulls, ..self.doc }, ..self }
    }

    /// The page of Azure Stream Analytics.
    const fn page(self, page: &'static str) -> Self {
        Self { doc: FunctionDoc { page, ..self.doc }, ..self }
    }

    pub(crate) fn doc(&self) -> FunctionDoc {
        self.doc
    }
}

/// The scalar functions, by the groups of the reference page. CASE, CAST, IIF and their like are forms of the language:
/// [`forms`].
pub(crate) static GROUPS: &[(&str, &[Function])] = &[
    ("Mathematical", math::FUNCTIONS),
    ("Bitwise", bits::FUNCTIONS),
    ("Text", string::FUNCTIONS),
    ("Date and time", datetime::FUNCTIONS),
    ("Conversion", conversion::FUNCTIONS),
    ("Records and arrays", record::FUNCTIONS),
    ("Geospatial", geospatial::FUNCTIONS),
    ("Hashing", hash::FUNCTIONS),
];

/// Every scalar function.
pub(crate) fn scalar() -> impl Iterator<Item = &'static Function> {
    GROUPS.iter().flat_map(|(_, functions)| functions.iter())
}

/// A header of a record, which queries reach as metadata: from `_headers` and a name.
pub(crate) static HEADER: Function = function("header", &[Arg::Array, Arg::Text], Returns::Text, record::header);

/// All headers of a record, which queries reach as metadata too: from `_headers`.
pub(crate) static HEADERS: Function = function("headers", &[Arg::Array], Returns::Any, record::headers);

/// The function of this lower-case name.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    scalar().find(|f| f.name == name)
}

impl Function {
    /// Whether the argument at `index` names a part of a datetime, which is no expression.
    pub(crate) fn takes_part(&self, index: usize) -> bool {
        self.args.get(index) == Some(&Arg::Part)
    }

    /// A call with converted arguments.
    pub(crate) fn call(&'static self, args: Vec<Typed>, span: Span) -> Result<Typed, QueryError> {
        let least = self.args.len() - self.optional;
        let fits = args.len() >= least && (self.repeats || args.len() <= self.args.len());
        if !fits {
            let expected = match (self.repeats, self.optional) {
                (true, _) => format!("at least {least}"),
                (false, 0) => format!("{least}"),
                (false, _) => format!("{least} to {}", self.args.len()),
            };
            return Err(QueryError::at(
                span,
                format!("`{}` takes {expected} arguments, found {}", self.name, args.len()),
            ));
        }
        let mut converted = Vec::with_capacity(args.len());
        for (i, arg) in args.into_iter().enumerate() {
            let kind = self.args[i.min(self.args.len() - 1)];
            converted.push(self.convert(kind, i, arg)?);
        }
        // `bit | bigint` is a bigint.
        if self.args == [Arg::Bits, Arg::Bits] && converted[0].data_type != converted[1].data_type {
            converted = converted.into_iter().map(|a| coerce(a, &DataType::Int64)).collect::<Result<_, _>>()?;
        }
        let data_type = self.return_type(&converted);
        Typed::call(ScalarUDF::new_from_impl(Call::new(self)), converted, data_type, span)
    }

    fn convert(&self, kind: Arg, index: usize, arg: Typed) -> Result<Typed, QueryError> {
        let span = arg.span;
        let converted = match kind {
            Arg::Text => coerce(arg, &DataType::Utf8),
            Arg::Int => coerce(arg, &DataType::Int64),
            Arg::Float => coerce(arg, &DataType::Float64),
            Arg::Time => coerce(arg, &datetime_type()),
            Arg::Number => to_number(arg),
            Arg::Bits if arg.data_type == DataType::Boolean => Ok(arg),
            Arg::Bits => coerce(arg, &DataType::Int64),
            Arg::Array | Arg::Geometry if arg.data_type == DataType::Null => coerce(arg, &any_type()),
            Arg::Array if !matches!(arg.data_type, DataType::List(_) | DataType::LargeUtf8) => {
                Err(mismatch(&arg, "array"))
            }
            Arg::Geometry if !geospatial::may_be(&arg.data_type) => Err(mismatch(&arg, "a GeoJSON record or WKT text")),
            Arg::Part if arg.constant().and_then(part_of).is_none() => {
                Err(QueryError::at(span, "expected a part of a datetime").help(Part::HELP))
            }
            Arg::Array | Arg::Geometry | Arg::Part | Arg::Any => Ok(arg),
        };
        converted.map_err(|e| QueryError {
            message: format!("argument {} of `{}`: {}", index + 1, self.name, e.message),
            ..e
        })
    }

    fn return_type(&self, args: &[Typed]) -> DataType {
        match self.returns {
            Returns::Text => DataType::Utf8,
            Returns::Int => DataType::Int64,
            Returns::Float => DataType::Float64,
            Returns::Time => datetime_type(),
            Returns::First => args[0].data_type.clone(),
            Returns::Element => match &args[0].data_type {
                DataType::List(element) => element.data_type().clone(),
                other => other.clone(),
            },
            Returns::Any => any_type(),
            Returns::Geometry(depth) => geospatial::record_type(depth),
        }
    }
}

fn part_of(value: &ScalarValue) -> Option<Part> {
    match value {
        ScalarValue::Utf8(Some(name)) => Part::parse(name),
        _ => None,
    }
}

/// The adapter to DataFusion.
#[derive(Debug)]
struct Call {
    function: &'static Function,
    signature: Signature,
}

impl Call {
    fn new(function: &'static Function) -> Self {
        Self { function, signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        self.function.name == other.function.name
    }
}

impl Eq for Call {}

impl Hash for Call {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.name.hash(state);
    }
}

impl ScalarUDFImpl for Call {
    fn name(&self) -> &str {
        self.function.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        datafusion_common::internal_err!("the planner gives the type of `{}`", self.function.name)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        rows::invoke(&args, self.function.evaluate)
    }
}
