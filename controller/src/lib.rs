//! The controller.

pub mod fleet;
pub mod store;
pub mod workflow;
