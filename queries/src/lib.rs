//! SQL text to dataflows: ASA's language, with the standard window table functions beside its own windows.
//!
//! [`Script::parse`] reads the text; [`plan`] resolves its names against the inputs and outputs of a job and gives the
//! [`Dataflow`](tidemill_engine::dataflow::plan::Dataflow) that the engine runs. In between:
//!
//! ```text
//! text -> tokens -(rewrite)-> tokens -(sqlparser, dialect)-> syntax tree = Script
//!      -(plan: steps, statements; tables: FROM; select: one SELECT; expression: everything inside it)-> graph
//!      -(graph: columns that nothing reads are cut)-> Dataflow
//! ```
//!
//! Expressions are DataFusion's physical ones; names, types, NULL rules and functions are ASA's, and are decided here.
//! This crate knows no connector and does no I/O.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod aggregates;
mod analytic;
pub mod bounded;
mod coercion;
mod dialect;
mod error;
mod expression;
mod functions;
mod graph;
mod javascript;
mod joins;
mod operators;
mod parameters;
mod plan;
mod rank;
mod ranked;
mod recognize;
mod reference;
mod rewrite;
mod sampled;
mod scope;
mod script;
mod select;
mod tables;
mod typed;
mod windows;

pub use error::{QueryError, QueryErrors};
pub use functions::reference::{EXAMPLE_COLUMN, EXAMPLE_ROW, FunctionDoc, function_docs, function_reference};
pub use javascript::{OnError, UserFunction, UserFunctions};
pub use plan::{CompatibilityLevel, InputTable, Settings, plan};
pub use script::{DeclaredTable, Script};
