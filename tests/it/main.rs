//! Whole-program tests.

mod cli;
mod house;
mod jobs;
mod replay;
