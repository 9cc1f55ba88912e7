//! Whole-program tests.

mod house;
mod jobs;
mod replay;
