//! Values between Arrow and JavaScript. There: bigint and float become Number, bit Boolean, text String, datetime Date,
//! record Object, array Array, NULL null. Back: what JSON.stringify makes of a value, a whole Number without a fraction;
//! undefined, NaN and infinities are NULL.

use std::fmt::Write;

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType},
};
use rquickjs::{Ctx, Object, Result, String as JsString, Value, function::Constructor};

/// Converts on behalf of one context.
pub(super) struct Converter<'js> {
    ctx: Ctx<'js>,
    date: Constructor<'js>,
}

impl<'js> Converter<'js> {
    pub(super) fn new(ctx: &Ctx<'js>) -> Result<Self> {
        Ok(Self { ctx: ctx.clone(), date: ctx.globals().get("Date")? })
    }

    /// The value of a row.
    pub(super) fn value(&self, array: &dyn Array, row: usize) -> Result<Value<'js>> {
        let ctx = || self.ctx.clone();
        if array.is_null(row) {
            return Ok(Value::new_null(ctx()));
        }
        Ok(match array.data_type() {
            DataType::Int64 => self.number(array.as_primitive::<Int64Type>().value(row)),
            DataType::Float64 => Value::new_float(ctx(), array.as_primitive::<Float64Type>().value(row)),
            DataType::Boolean => Value::new_bool(ctx(), array.as_boolean().value(row)),
            DataType::Utf8 => JsString::from_str(ctx(), array.as_string::<i32>().value(row))?.into_value(),
            DataType::LargeUtf8 => self.ctx.json_parse(array.as_string::<i64>().value(row))?,
            DataType::Timestamp(..) => self.date(array.as_primitive::<TimestampMicrosecondType>().value(row))?,
            DataType::Struct(fields) => {
                let object = Object::new(ctx())?;
                for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                    object.set(field.name().as_str(), self.value(column, row)?)?;
                }
                object.into_value()
            }
            DataType::List(_) => {
                let items = array.as_list::<i32>().value(row);
                let list = rquickjs::Array::new(ctx())?;
                for at in 0..items.len() {
                    list.set(at, self.value(&items, at)?)?;
                }
                list.into_value()
            }
            _ => Value::new_null(ctx()),
        })
    }

    fn number(&self, n: i64) -> Value<'js> {
        match i32::try_from(n) {
            Ok(n) => Value::new_int(self.ctx.clone(), n),
            Err(_) => Value::new_float(self.ctx.clone(), n as f64),
        }
    }

    /// A Date from microseconds since the epoch.
    pub(super) fn date(&self, micros: i64) -> Result<Value<'js>> {
        self.date.construct((micros.div_euclid(1_000) as f64,))
    }

    /// A value as JSON; none for null.
    pub(super) fn json(&self, value: Value<'js>) -> Result<Option<String>> {
        let mut text = String::new();
        Ok(self.write(&value, &mut text)?.then_some(text))
    }

    /// Writes a value as JSON; false for null.
    pub(super) fn write(&self, value: &Value<'js>, out: &mut impl Write) -> Result<bool> {
        // Neither a builder in memory nor a String fails.
        if let Some(n) = value.as_int() {
            let _ = write!(out, "{n}");
        } else if let Some(x) = value.as_float() {
            // A whole number that fits is a bigint; 2^63 itself does not.
            let limit = 2f64.powi(63);
            let _ = match x {
                x if !x.is_finite() => return Ok(false),
                x if x.fract() == 0.0 && (-limit..limit).contains(&x) => write!(out, "{}", x as i64),
                x => write!(out, "{x:?}"),
            };
        } else if let Some(bit) = value.as_bool() {
            let _ = write!(out, "{bit}");
        } else if value.is_null() || value.is_undefined() {
            return Ok(false);
        } else {
            match self.ctx.json_stringify(value.clone())? {
                None => return Ok(false),
                Some(json) => {
                    let json = json.to_string()?;
                    if json == "null" {
                        return Ok(false);
                    }
                    let _ = out.write_str(&json);
                }
            }
        }
        Ok(true)
    }
}
