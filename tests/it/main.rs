//! Whole-program tests.

mod house;
