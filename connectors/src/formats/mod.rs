//! Formats: bytes to Arrow and back. They know nothing of where the bytes come from.

pub mod csv;
pub mod encode;
pub mod infer;
pub mod json;
