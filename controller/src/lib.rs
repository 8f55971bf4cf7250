//! The controller.

pub mod store;
pub mod workflow;
