//! The scalar functions. [`FUNCTIONS`] lists them all; each is a row-by-row rule over Arrow columns, called through one
//! adapter to DataFusion's `ScalarUDF`. Text positions count characters from 1; null arguments give null unless a
//! function says otherwise.

pub(crate) mod conversion;
mod datetime;
mod math;
pub(crate) mod pattern;
pub(crate) mod record;
mod rows;
mod string;
#[cfg(test)]
mod tests;

use std::hash::{Hash, Hasher};

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sqlparser::tokenizer::Span;
use tidemill_engine::datetime_type;

use crate::{
    coercion::{coerce, mismatch, to_number},
    error::QueryError,
    typed::Typed,
};
pub(crate) use datetime::Part;
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
    /// An array.
    Array,
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
}

const fn function(
    name: &'static str,
    args: &'static [Arg],
    returns: Returns,
    evaluate: fn(&Args) -> Result<ArrayRef>,
) -> Function {
    Function { name, args, optional: 0, repeats: false, returns, evaluate }
}

const fn optional(function: Function) -> Function {
    Function { optional: 1, ..function }
}

const fn repeats(function: Function) -> Function {
    Function { repeats: true, ..function }
}

/// All scalar functions, by lower-case name. COALESCE, NULLIF, IIF and CAST are forms of the language: `expression.rs`.
pub(crate) static FUNCTIONS: &[Function] = {
    use Arg::{Any, Array, Bits, Float, Int, Number, Part, Text, Time};
    use Returns::{Element, First};
    &[
        function("abs", &[Number], First, math::abs),
        function("ceiling", &[Number], First, math::ceiling),
        function("exp", &[Float], Returns::Float, math::exp),
        function("floor", &[Number], First, math::floor),
        function("power", &[Number, Float], First, math::power),
        optional(function("round", &[Number, Int], First, math::round)),
        function("sign", &[Number], First, math::sign),
        function("sqrt", &[Float], Returns::Float, math::sqrt),
        function("square", &[Float], Returns::Float, math::square),
        function("bitand", &[Bits, Bits], First, math::bit_and),
        function("bitor", &[Bits, Bits], First, math::bit_or),
        function("bitxor", &[Bits, Bits], First, math::bit_xor),
        function("bitnot", &[Bits], First, math::bit_not),
        optional(function("charindex", &[Text, Text, Int], Returns::Int, string::charindex)),
        repeats(function("concat", &[Text], Returns::Text, string::concat)),
        repeats(function("concat_ws", &[Text, Text], Returns::Text, string::concat_ws)),
        function("left", &[Text, Int], Returns::Text, string::left),
        function("len", &[Text], Returns::Int, string::len),
        function("lower", &[Text], Returns::Text, string::lower),
        function("ltrim", &[Text], Returns::Text, string::ltrim),
        function("nchar", &[Int], Returns::Text, string::nchar),
        function("patindex", &[Text, Text], Returns::Int, string::patindex),
        function("replace", &[Text, Text, Text], Returns::Text, string::replace),
        function("replicate", &[Text, Int], Returns::Text, string::replicate),
        function("reverse", &[Text], Returns::Text, string::reverse),
        function("right", &[Text, Int], Returns::Text, string::right),
        function("rtrim", &[Text], Returns::Text, string::rtrim),
        function("space", &[Int], Returns::Text, string::space),
        function("stuff", &[Text, Int, Int, Text], Returns::Text, string::stuff),
        function("substring", &[Text, Int, Int], Returns::Text, string::substring),
        function("translate", &[Text, Text, Text], Returns::Text, string::translate),
        function("trim", &[Text], Returns::Text, string::trim),
        function("unicode", &[Text], Returns::Int, string::unicode),
        function("upper", &[Text], Returns::Text, string::upper),
        function("dateadd", &[Part, Int, Time], Returns::Time, datetime::dateadd),
        function("datediff", &[Part, Time, Time], Returns::Int, datetime::datediff),
        function("datename", &[Part, Time], Returns::Text, datetime::datename),
        function("datepart", &[Part, Time], Returns::Int, datetime::datepart),
        function("datetimefromparts", &[Int, Int, Int, Int, Int, Int, Int], Returns::Time, datetime::from_parts),
        function("day", &[Time], Returns::Int, datetime::day),
        function("month", &[Time], Returns::Int, datetime::month),
        function("year", &[Time], Returns::Int, datetime::year),
        function("getarrayelement", &[Array, Int], Element, record::array_element),
        function("getarraylength", &[Array], Returns::Int, record::array_length),
        function("gettype", &[Any], Returns::Text, conversion::get_type),
    ]
};

/// A record's header, which queries reach as metadata: from `_headers` and a name.
pub(crate) static HEADER: Function = function("header", &[Arg::Array, Arg::Text], Returns::Text, record::header);

/// The function of this lower-case name.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
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
            Arg::Array if !matches!(arg.data_type, DataType::List(_)) => Err(mismatch(&arg, "array")),
            Arg::Part if arg.constant().and_then(part_of).is_none() => {
                Err(QueryError::at(span, "expected a part of a datetime").help(Part::HELP))
            }
            Arg::Array | Arg::Part | Arg::Any => Ok(arg),
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
