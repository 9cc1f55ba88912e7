//! Functions over small columns.
