//! Avro: rows as values of a record whose schema is given, not made of the columns: the latest of a registry's subject.
//!
//! A column goes into the field of its name. Every column needs one, and a field without a column a default, or null among its
//! types. Numbers go into types that are at least as wide, or hold the value at hand; texts into strings and enums.

use apache_avro::schema::{RecordSchema, Schema as Avro, UnionSchema, UuidSchema};
use arrow::{
    datatypes::{DataType, Fields},
    error::ArrowError,
};

use super::Column;
use crate::formats::avro::{
    AvroSchema,
    schema::{Names, encode_default, kind_name, put_bytes, put_long, record_of, resolve},
};

/// How columns become a record.
pub(super) struct Record(Vec<Field>);

struct Field {
    path: String,
    value: Value,
}

enum Value {
    /// Of the column of this index.
    Of(usize, Plan),
    /// The same bytes in each row.
    Fixed(Vec<u8>),
}

struct Plan {
    /// Of a union the index of null, if it is among its types, and that of the type.
    union: Option<(Option<usize>, usize)>,
    kind: Kind,
}

enum Kind {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Text,
    Enum(Vec<String>),
    /// Microseconds of a unit.
    Datetime(i64),
    Record(Record),
    Array(Box<Plan>),
}

/// Plans how rows of these columns become values of a schema.
///
/// # Errors
/// What does not fit, by name.
pub(super) fn plan(schema: &AvroSchema, columns: &Fields) -> Result<Record, ArrowError> {
    let names = schema.names();
    let record = record_of(schema.root(), &names);
    let record = record.ok_or_else(|| mismatch(format!("its top is {}, not a record", kind_name(schema.root()))))?;
    record_plan(record, &names, columns, "")
}

fn record_plan(record: &RecordSchema, names: &Names<'_>, columns: &Fields, path: &str) -> Result<Record, ArrowError> {
    let available = || {
        let names: Vec<_> = record.fields.iter().map(|field| format!("`{}`", field.name)).collect();
        names.join(", ")
    };
    let has_field = |name: &str| record.fields.iter().any(|field| field.name.eq_ignore_ascii_case(name));
    if let Some(column) = columns.iter().find(|column| !has_field(column.name())) {
        let name = column.name();
        return Err(mismatch(format!("it has no field for column `{path}{name}`; available: {}", available())));
    }
    let field = |field: &apache_avro::schema::RecordField| {
        let path = format!("{path}{}", field.name);
        let found = columns.iter().position(|column| *column.name() == field.name);
        let found = found.or_else(|| columns.iter().position(|column| column.name().eq_ignore_ascii_case(&field.name)));
        let value =
            match found {
                Some(index) => Value::Of(index, value_plan(&field.schema, names, columns[index].data_type(), &path)?),
                None => Value::Fixed(absent(field, names).ok_or_else(|| {
                    mismatch(format!("field `{path}` has no default, and the rows have no such column"))
                })?),
            };
        Ok(Field { path, value })
    };
    Ok(Record(record.fields.iter().map(field).collect::<Result<_, ArrowError>>()?))
}

/// What stands for a field without a column.
fn absent(field: &apache_avro::schema::RecordField, names: &Names<'_>) -> Option<Vec<u8>> {
    let mut out = vec![];
    match (&field.default, &field.schema) {
        (Some(default), schema) => encode_default(schema, names, default, &mut out)?,
        (None, Avro::Union(union)) => put_long(null_of(union)? as i64, &mut out),
        (None, _) => return None,
    }
    Some(out)
}

fn null_of(union: &UnionSchema) -> Option<usize> {
    union.variants().iter().position(|variant| matches!(variant, Avro::Null))
}

fn value_plan(schema: &Avro, names: &Names<'_>, data_type: &DataType, path: &str) -> Result<Plan, ArrowError> {
    if let Avro::Union(union) = resolve(schema, names) {
        let types = union.variants().iter().enumerate().filter(|(_, variant)| !matches!(variant, Avro::Null));
        let mut first = None;
        for (index, variant) in types {
            match value_plan(variant, names, data_type, path) {
                Ok(plan) => return Ok(Plan { union: Some((null_of(union), index)), ..plan }),
                Err(error) => first = first.or(Some(error)),
            }
        }
        return Err(first.unwrap_or_else(|| mismatch(format!("field `{path}` takes nothing but null"))));
    }
    let is_whole = data_type.is_integer();
    let is_number = is_whole || data_type.is_floating() || data_type.is_decimal();
    let is_text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null);
    let is_datetime = matches!(data_type, DataType::Timestamp(..));
    let kind = match (resolve(schema, names), data_type) {
        (Avro::Boolean, DataType::Boolean) => Kind::Boolean,
        (Avro::Int, _) if is_whole => Kind::Int,
        (Avro::Long, _) if is_whole => Kind::Long,
        (Avro::Float, _) if is_number => Kind::Float,
        (Avro::Double, _) if is_number => Kind::Double,
        (Avro::String | Avro::Uuid(UuidSchema::String), _) if is_text => Kind::Text,
        (Avro::Enum(symbols), _) if is_text => Kind::Enum(symbols.symbols.clone()),
        (Avro::TimestampMillis | Avro::LocalTimestampMillis, _) if is_datetime => Kind::Datetime(1_000),
        (Avro::TimestampMicros | Avro::LocalTimestampMicros, _) if is_datetime => Kind::Datetime(1),
        (Avro::Record(record), DataType::Struct(members)) => {
            Kind::Record(record_plan(record, names, members, &format!("{path}."))?)
        }
        (Avro::Array(array), DataType::List(item) | DataType::LargeList(item)) => {
            Kind::Array(Box::new(value_plan(&array.items, names, item.data_type(), &format!("{path}[]"))?))
        }
        (other, _) => {
            let what = kind_name(other);
            return Err(mismatch(format!("field `{path}` is of type {what}, the column of type {data_type}")));
        }
    };
    Ok(Plan { union: None, kind })
}

fn mismatch(what: String) -> ArrowError {
    ArrowError::SchemaError(format!("the rows do not fit the subject's latest schema: {what}"))
}

impl Record {
    /// Appends a row.
    ///
    /// # Errors
    /// A value that its field cannot hold.
    pub(super) fn put<'c>(
        &self,
        columns: &dyn Fn(usize) -> &'c Column,
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), ArrowError> {
        self.0.iter().try_for_each(|field| match &field.value {
            Value::Fixed(bytes) => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            Value::Of(column, plan) => plan.put(columns(*column), row, out, &field.path),
        })
    }
}

impl Plan {
    fn put(&self, column: &Column, row: usize, out: &mut Vec<u8>, path: &str) -> Result<(), ArrowError> {
        let unfit = |what: &str| ArrowError::InvalidArgumentError(format!("field `{path}` cannot hold {what}"));
        if column.is_null(row) {
            let null = self.union.and_then(|(null, _)| null).ok_or_else(|| unfit("null"))?;
            put_long(null as i64, out);
            return Ok(());
        }
        if let Some((_, index)) = self.union {
            put_long(index as i64, out);
        }
        match (&self.kind, column) {
            (Kind::Boolean, Column::Boolean(values)) => out.push(u8::from(values.value(row))),
            (Kind::Int, Column::Int(values)) => {
                let value = values.value(row);
                put_long(i64::from(i32::try_from(value).map_err(|_| unfit(&value.to_string()))?), out);
            }
            (Kind::Long, Column::Int(values)) => put_long(values.value(row), out),
            (Kind::Float, Column::Float(values)) => out.extend_from_slice(&(values.value(row) as f32).to_le_bytes()),
            (Kind::Float, Column::Int(values)) => out.extend_from_slice(&(values.value(row) as f32).to_le_bytes()),
            (Kind::Double, Column::Float(values)) => out.extend_from_slice(&values.value(row).to_le_bytes()),
            (Kind::Double, Column::Int(values)) => out.extend_from_slice(&(values.value(row) as f64).to_le_bytes()),
            (Kind::Text, Column::Text(values)) => put_bytes(values.value(row).as_bytes(), out),
            (Kind::Text, Column::Any(values)) => put_bytes(values.value(row).as_bytes(), out),
            (Kind::Enum(symbols), Column::Text(values)) => {
                let value = values.value(row);
                let index = symbols.iter().position(|symbol| symbol == value);
                let index = index.ok_or_else(|| unfit(&format!("`{value}`; available: {}", symbols.join(", "))))?;
                put_long(index as i64, out);
            }
            (Kind::Datetime(micros), Column::Datetime(values)) => put_long(values.value(row).div_euclid(*micros), out),
            (Kind::Record(record), Column::Record(_, members)) => {
                record.put(&|index| &members[index].values, row, out)?;
            }
            (Kind::Array(plan), Column::List(list, items)) => {
                let [start, end] = [list.value_offsets()[row], list.value_offsets()[row + 1]];
                if end > start {
                    put_long(i64::from(end - start), out);
                    let path = format!("{path}[]");
                    (start as usize..end as usize).try_for_each(|item| plan.put(items, item, out, &path))?;
                }
                out.push(0);
            }
            _ => return Err(unfit("the column's values")),
        }
        Ok(())
    }
}
