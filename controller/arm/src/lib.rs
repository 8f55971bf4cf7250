//! ARM client.
