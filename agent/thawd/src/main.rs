//! The thaw process.
fn main() {}
