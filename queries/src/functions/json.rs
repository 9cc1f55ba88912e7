//! Values of type `any`: each row holds one value as JSON text, and the value has a type of its own, as in ASA. What is
//! asked of such a value is answered by row: a conversion, a field, an element, its type.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, LargeStringArray, LargeStringBuilder},
    datatypes::{DataType, Field, FieldRef, TimestampMicrosecondType},
    json::{
        Encoder, EncoderFactory, EncoderOptions,
        writer::{NullableEncoder, make_encoder},
    },
};
use datafusion_common::Result;
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use tidemill_engine::any::{any_type, compact};

use super::{Args, datetime, rows::invoke};

/// One value: a JSON text that is known to be valid, without white space around it. It is read where it stands, so that
/// numbers keep their digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// The value that all of `text` is; none when it is no JSON.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str::<serde::de::IgnoredAny>(text).ok().map(|_| Self(text.trim()))
    }

    pub(super) fn text(self) -> &'a str {
        self.0
    }

    /// The text without the white space between its parts.
    pub(super) fn compact(self) -> Cow<'a, str> {
        compact(self.0)
    }

    fn first(self) -> u8 {
        self.0.as_bytes().first().copied().unwrap_or(b'n')
    }

    pub(super) fn is_null(self) -> bool {
        self.first() == b'n'
    }

    /// Name of the value's type.
    pub(super) fn kind(self) -> &'static str {
        match self.first() {
            b'{' => "record",
            b'[' => "array",
            b'"' => "nvarchar(max)",
            b't' | b'f' => "bit",
            b'n' => "null",
            _ if self.int().is_some() => "bigint",
            _ => "float",
        }
    }

    /// A number without a fraction.
    pub(super) fn int(self) -> Option<i64> {
        self.0.parse().ok()
    }

    pub(super) fn float(self) -> Option<f64> {
        matches!(self.first(), b'-' | b'0'..=b'9')
            .then(|| self.0.parse().ok())
            .flatten()
            .filter(|x: &f64| x.is_finite())
    }

    pub(super) fn bit(self) -> Option<bool> {
        self.0.parse().ok()
    }

    pub(super) fn string(self) -> Option<String> {
        (self.first() == b'"').then(|| serde_json::from_str(self.0).ok()).flatten()
    }

    /// As CAST to nvarchar(max) gives it: text as it is, records and arrays as JSON.
    pub(super) fn to_text(self) -> Cow<'a, str> {
        match (self.string(), self.int(), self.float()) {
            (Some(text), ..) => text.into(),
            (None, None, Some(x)) => x.to_string().into(),
            _ => self.0.into(),
        }
    }

    /// Keys and values of a record; nothing of what is none.
    pub(super) fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Json<'a>)> {
        let mut rest = self.0.strip_prefix('{').unwrap_or_default();
        std::iter::from_fn(move || {
            let (key, behind) = value_before(rest.trim_start())?;
            let (value, behind) = value_before(behind.trim_start().strip_prefix(':')?.trim_start())?;
            rest = behind.trim_start().strip_prefix(',').unwrap_or_default();
            let inner = &key[1..key.len() - 1];
            let key = if inner.contains('\\') { Json(key).string()?.into() } else { inner.into() };
            Some((key, Json(value)))
        })
    }

    /// A field: in this spelling, else in any case.
    pub(super) fn member(self, name: &str) -> Option<Json<'a>> {
        let exact = self.members().find(|(key, _)| key == name);
        let found = exact.or_else(|| self.members().find(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value)
    }

    /// Elements of an array; nothing of what is none.
    pub(super) fn elements(self) -> impl Iterator<Item = Json<'a>> {
        let mut rest = self.0.strip_prefix('[').unwrap_or_default();
        std::iter::from_fn(move || {
            let (value, behind) = value_before(rest.trim_start())?;
            rest = behind.trim_start().strip_prefix(',').unwrap_or_default();
            Some(Json(value))
        })
    }
}

/// The value that a text begins with, and what stands behind it; none before a closing bracket.
fn value_before(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        let ends = match byte {
            _ if escaped => {
                escaped = false;
                false
            }
            b'\\' if in_string => {
                escaped = true;
                false
            }
            b'"' => {
                in_string = !in_string;
                !in_string && depth == 0
            }
            _ if in_string => false,
            b'{' | b'[' => {
                depth += 1;
                false
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                depth == 0
            }
            // A number or a word ends before what separates values.
            b',' | b':' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => {
                return (at > 0).then(|| text.split_at(at));
            }
            _ => false,
        };
        if ends {
            return Some(text.split_at(at + 1));
        }
    }
    (!text.is_empty()).then_some((text, ""))
}

/// A column of values, each read when it is asked for.
pub(super) struct Values<'a> {
    texts: &'a LargeStringArray,
    args: &'a Args,
    arg: usize,
}

impl<'a> Values<'a> {
    pub(super) fn of(args: &'a Args, arg: usize) -> Self {
        Self { texts: args.column(arg).as_string(), args, arg }
    }

    /// The value; null for null.
    pub(super) fn get(&self, row: usize) -> Option<Json<'a>> {
        let at = self.args.index(self.arg, row);
        self.texts.is_valid(at).then(|| Json(self.texts.value(at)))
    }
}

/// The column of JSON texts, null where there is no value.
pub(super) fn collect<'a>(texts: impl Iterator<Item = Option<Cow<'a, str>>>) -> ArrayRef {
    let mut out = LargeStringBuilder::new();
    for text in texts {
        out.append_option(text.filter(|text| text != "null"));
    }
    Arc::new(out.finish())
}

/// JSON_PARSE: the record that a text is; null when it is none.
pub(super) fn parse(args: &Args) -> Result<ArrayRef> {
    let texts = args.text(0);
    Ok(collect((0..args.rows()).map(|row| {
        let value = Json::parse(texts.get(row)?)?;
        (value.kind() == "record").then(|| value.compact())
    })))
}

/// Values of one type as values of any.
pub(super) fn from_typed(column: &ArrayRef) -> Result<ArrayRef> {
    encode(column).map(|texts| {
        let texts = texts.into_iter().map(|text| text.map(|t| Cow::from(String::from_utf8_lossy(&t).into_owned())));
        collect(texts)
    })
}

/// Each value as JSON; null for null.
pub(super) fn encode(column: &ArrayRef) -> Result<Vec<Option<Vec<u8>>>> {
    if let DataType::Timestamp(..) = column.data_type() {
        let times = column.as_primitive::<TimestampMicrosecondType>();
        let text = |t| datetime::print(t).map(|text| format!("\"{text}\"").into_bytes());
        return Ok(times.iter().map(|t| t.and_then(text)).collect());
    }
    let field = Arc::new(Field::new("value", column.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(AnyValues));
    let mut encoder = make_encoder(&field, column, &options)?;
    Ok((0..column.len())
        .map(|row| {
            if column.is_null(row) {
                return None;
            }
            let mut text = Vec::new();
            encoder.encode(row, &mut text);
            Some(text)
        })
        .collect())
}

/// Writes values of type `any` as the JSON that they are.
#[derive(Debug)]
struct AnyValues;

impl EncoderFactory for AnyValues {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> std::result::Result<Option<NullableEncoder<'a>>, arrow::error::ArrowError> {
        let Some(texts) = array.as_any().downcast_ref::<LargeStringArray>() else { return Ok(None) };
        Ok(Some(NullableEncoder::new(Box::new(AsIs(texts)), array.nulls().cloned())))
    }
}

struct AsIs<'a>(&'a LargeStringArray);

impl Encoder for AsIs<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.value(row).as_bytes());
    }
}

/// `value.name` of values of any type: null where the value is no record, or has no such field.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    name: String,
    signature: Signature,
}

impl Member {
    pub(crate) fn function(name: &str) -> ScalarUDF {
        ScalarUDF::new_from_impl(Self { name: name.to_owned(), signature: Signature::any(1, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for Member {
    fn name(&self) -> &str {
        "member"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(any_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        invoke(&args, |args| {
            let values = Values::of(args, 0);
            let member = |row| Some(values.get(row)?.member(&self.name)?.text().into());
            Ok(collect((0..args.rows()).map(member)))
        })
    }
}
