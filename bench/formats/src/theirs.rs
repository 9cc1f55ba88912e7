//! The events, and the libraries that would decode them.

use std::sync::Arc;

use anyhow::{Context, Result};
use apache_avro::{Schema as AvroSchema, types::Value as AvroValue};
use arrow::{
    array::{ArrayBuilder, Float64Builder, Int64Builder, StringBuilder},
    csv::ReaderBuilder as CsvReaderBuilder,
    datatypes::{DataType, Field, Schema, SchemaRef},
    json::ReaderBuilder as JsonReaderBuilder,
};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value as ProtoValue};
use serde_json::{Value as Json, json};

use crate::{BATCH, WANTED};

/// Events, the same in every run.
pub(crate) fn events(count: usize) -> impl Iterator<Item = Json> {
    (0..count).map(|n| {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        json!({
            "id": n, "user": format!("user-{}", mixed % 10_000), "page": format!("/shop/items/{}", mixed % 977),
            "amount": (mixed % 100_000) as f64 / 100.0, "ok": mixed.is_multiple_of(3), "city": "Saint-Étienne",
            "count": mixed % 50, "note": if mixed.is_multiple_of(2) { Json::Null } else { json!("a note of some length") },
        })
    })
}

/// An event's values between commas.
pub(crate) fn csv_line(event: &Json) -> Vec<u8> {
    let value = |value: &Json| match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    let values: Vec<_> = event.as_object().into_iter().flat_map(|members| members.values()).map(value).collect();
    (values.join(",") + "\n").into_bytes()
}

/// Columns in the making from values of a library.
#[derive(Default)]
struct Columns {
    user: StringBuilder,
    amount: Float64Builder,
    count: Int64Builder,
}

impl Columns {
    fn finish(&mut self) -> usize {
        let rows = self.user.len();
        std::hint::black_box((self.user.finish(), self.amount.finish(), self.count.finish()));
        rows
    }
}

/// arrow-json, of the wanted columns.
pub(crate) fn arrow_json(columns: SchemaRef) -> Result<impl FnMut(&[Vec<u8>]) -> Result<usize>> {
    let mut decoder = JsonReaderBuilder::new(columns).with_batch_size(BATCH).build_decoder()?;
    Ok(move |payloads: &[Vec<u8>]| {
        let mut rows = 0;
        for batch in payloads.chunks(BATCH) {
            for payload in batch {
                decoder.decode(payload)?;
            }
            rows += decoder.flush()?.map_or(0, |batch| std::hint::black_box(batch).num_rows());
        }
        Ok(rows)
    })
}

/// arrow-csv, of the wanted columns.
pub(crate) fn arrow_csv() -> Result<impl FnMut(&[Vec<u8>]) -> Result<usize>> {
    let types = [
        ("id", DataType::Int64),
        ("user", DataType::Utf8),
        ("page", DataType::Utf8),
        ("amount", DataType::Float64),
        ("ok", DataType::Boolean),
        ("city", DataType::Utf8),
        ("count", DataType::Int64),
        ("note", DataType::Utf8),
    ];
    let wanted = types.iter().enumerate().filter(|(_, (name, _))| WANTED.contains(name)).map(|(at, _)| at).collect();
    let schema = Schema::new(types.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec());
    let builder = CsvReaderBuilder::new(Arc::new(schema)).with_batch_size(BATCH).with_projection(wanted);
    let mut decoder = builder.build_decoder();
    Ok(move |payloads: &[Vec<u8>]| {
        let mut rows = 0;
        for batch in payloads.chunks(BATCH) {
            for payload in batch {
                decoder.decode(payload)?;
            }
            decoder.decode(&[])?;
            rows += decoder.flush()?.map_or(0, |batch| std::hint::black_box(batch).num_rows());
        }
        Ok(rows)
    })
}

/// Events as plain Avro values.
pub(crate) fn avro_payloads(schema: &str, count: usize) -> Result<Vec<Vec<u8>>> {
    let schema = AvroSchema::parse_str(schema)?;
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema).build()?;
    let payload = |event: Json| {
        let text = |name: &str| AvroValue::String(event[name].as_str().unwrap_or_default().to_owned());
        let note = event["note"].as_str().map_or(AvroValue::Null, |note| AvroValue::String(note.to_owned()));
        let fields = vec![
            ("id", AvroValue::Long(event["id"].as_i64().unwrap_or_default())),
            ("user", text("user")),
            ("page", text("page")),
            ("amount", AvroValue::Double(event["amount"].as_f64().unwrap_or_default())),
            ("ok", AvroValue::Boolean(event["ok"] == true)),
            ("city", text("city")),
            ("count", AvroValue::Int(event["count"].as_i64().unwrap_or_default() as i32)),
            ("note", AvroValue::Union(u32::from(note != AvroValue::Null), Box::new(note))),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(writer.write_value_to_vec(AvroValue::Record(fields))?)
    };
    events(count).map(payload).collect()
}

/// apache-avro's values, and builders.
pub(crate) fn apache_avro(schema: &str) -> Result<impl FnMut(&[Vec<u8>]) -> Result<usize>> {
    let schema = AvroSchema::parse_str(schema)?;
    let mut columns = Columns::default();
    Ok(move |payloads: &[Vec<u8>]| {
        let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build()?;
        let mut rows = 0;
        for batch in payloads.chunks(BATCH) {
            for payload in batch {
                let AvroValue::Record(fields) = reader.read_value(&mut &payload[..])? else { continue };
                for (name, value) in fields {
                    match (name.as_str(), value) {
                        ("user", AvroValue::String(user)) => columns.user.append_value(user),
                        ("amount", AvroValue::Double(amount)) => columns.amount.append_value(amount),
                        ("count", AvroValue::Int(count)) => columns.count.append_value(i64::from(count)),
                        _ => {}
                    }
                }
            }
            rows += columns.finish();
        }
        Ok(rows)
    })
}

fn descriptor(schema: &str) -> Result<MessageDescriptor> {
    let file = protox::file::File::from_source("event.proto", schema)?;
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(prost_types(file))?;
    pool.get_message_by_name("Event").context("the schema has an Event")
}

fn prost_types(file: protox::file::File) -> prost_reflect::prost_types::FileDescriptorSet {
    prost_reflect::prost_types::FileDescriptorSet { file: vec![file.file_descriptor_proto().clone()] }
}

/// Events as Protobuf messages.
pub(crate) fn protobuf_payloads(schema: &str, count: usize) -> Result<Vec<Vec<u8>>> {
    let descriptor = descriptor(schema)?;
    let payload = |event: Json| {
        let mut message = DynamicMessage::new(descriptor.clone());
        for (name, value) in event.as_object().into_iter().flatten() {
            let value = match (name.as_str(), value) {
                (_, Json::Null) => continue,
                ("count", count) => ProtoValue::I32(count.as_i64().unwrap_or_default() as i32),
                ("amount", amount) => ProtoValue::F64(amount.as_f64().unwrap_or_default()),
                (_, Json::Bool(value)) => ProtoValue::Bool(*value),
                (_, Json::String(text)) => ProtoValue::String(text.clone()),
                (_, id) => ProtoValue::I64(id.as_i64().unwrap_or_default()),
            };
            message.set_field_by_name(name, value);
        }
        message.encode_to_vec()
    };
    Ok(events(count).map(payload).collect())
}

/// prost-reflect's messages, and builders.
pub(crate) fn dynamic_message(schema: &str) -> Result<impl FnMut(&[Vec<u8>]) -> Result<usize>> {
    let descriptor = descriptor(schema)?;
    let fields = WANTED.map(|name| descriptor.get_field_by_name(name));
    let mut columns = Columns::default();
    Ok(move |payloads: &[Vec<u8>]| {
        let [Some(user), Some(amount), Some(count)] = &fields else { return Ok(0) };
        let mut rows = 0;
        for batch in payloads.chunks(BATCH) {
            for payload in batch {
                let message = DynamicMessage::decode(descriptor.clone(), &payload[..])?;
                columns.user.append_option(message.get_field(user).as_str());
                columns.amount.append_option(message.get_field(amount).as_f64());
                columns.count.append_option(message.get_field(count).as_i32().map(i64::from));
            }
            rows += columns.finish();
        }
        Ok(rows)
    })
}
