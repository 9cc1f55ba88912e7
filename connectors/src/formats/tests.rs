//! What the tests of several formats share: columns, rows as JSON, small numbers.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::Value as Json;
use tidemill_engine::decoder::Decoder;

use super::encode::{EncodedRows, JsonEncoder, RowEncoder};

pub(super) fn columns(fields: &[(&str, DataType)]) -> SchemaRef {
    let fields = fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The rows that a decoder has built, as JSON.
pub(super) fn rows(decoder: &mut dyn Decoder) -> Vec<Json> {
    let mut rows = EncodedRows::default();
    JsonEncoder.encode(&decoder.flush().unwrap(), &mut rows).unwrap();
    (0..rows.len()).map(|row| serde_json::from_slice(rows.row(row)).unwrap()).collect()
}

/// Small numbers, the same for the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    pub(super) fn long(&mut self) -> i64 {
        let bits = self.roll(64);
        (self.roll(u64::MAX) >> bits) as i64 * if self.roll(2) == 0 { 1 } else { -1 }
    }
}
