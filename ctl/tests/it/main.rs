//! The real binary against a fake controller, over real mutual TLS.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod commands;
mod exits;
mod fake;
mod harness;
mod help;
mod terminal;
mod values;
mod watching;
mod wrong_values;
