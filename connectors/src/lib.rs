//! Where records come from and where rows go.
//!
//! Transports implement the engine's contracts: a [`Source`](tidemill_engine::source::Source) hands over raw records with
//! their positions, a [`Sink`](tidemill_engine::sink::Sink) takes Arrow batches. Formats turn bytes into Arrow and back and
//! know no transport; a job puts one of each together.
//!
//! | | reads | writes |
//! |---|---|---|
//! | [`kafka`] | topics | topics |
//! | [`files`] | records of finished files | files that appear when they are whole |
//! | [`stdout`] | | a table on a terminal, JSON lines in a pipe |
//! | [`discard`] | | nothing; it counts |
//! | [`dead_letters`] | letters | records that could not become rows, by files or topics |
//! | [`replay`] | records that were kept | |
//! | [`formats::json`] | bytes to Arrow | [`formats::encode::JsonEncoder`] |
//! | [`formats::csv`] | bytes to Arrow | [`formats::encode::CsvEncoder`] |
//! | [`formats::avro`] | bytes to Arrow | [`formats::encode::AvroEncoder`] and others |
//! | [`formats::protobuf`] | bytes to Arrow | [`formats::encode::ProtobufEncoder`] |
//! | [`formats::parquet`] | bytes to Arrow | [`formats::encode::ParquetEncoder`] |
//! | [`formats::registry`] | schemas by id | schemas of rows |
//!
//! Errors are the engine's: [`EngineError::Source`](tidemill_engine::EngineError::Source) and
//! [`EngineError::Sink`](tidemill_engine::EngineError::Sink) name the input or output of the spec, what happened, and by
//! their kind what to do about it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod dead_letters;
pub mod discard;
pub mod files;
pub mod formats;
pub mod kafka;
pub mod replay;
pub mod stdout;
