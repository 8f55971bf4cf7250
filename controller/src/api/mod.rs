//! gRPC services: thin. They parse, authorise, call, and convert.

pub mod admin;
pub mod agent_service;
pub mod enroll_service;
