//! The real binary against a fake controller, over real mutual TLS.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod commands;
mod exits;
mod fake;
mod formats;
mod harness;
mod help;
mod looking_again;
mod shells;
mod terminal;
mod values;
mod watching;
mod wrong_values;
/// The reader that the writer's own tests use.
#[path = "../../src/output/yaml/reader.rs"]
mod yaml;
