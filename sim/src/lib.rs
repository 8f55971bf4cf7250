//! A simulator.
pub mod guests;
