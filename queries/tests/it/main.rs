//! Scripts with their plans, rows and mistakes, as text files in `tests/cases`. `TIDEMILL_UPDATE=1` rewrites what a case
//! expects.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod cases;
mod hostile;
mod reference;
mod run;
