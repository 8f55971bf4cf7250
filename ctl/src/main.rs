//! The CLI.
fn main() {}
