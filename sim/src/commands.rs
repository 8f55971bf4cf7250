//! The program's commands, one file each.

pub(crate) mod init;
pub(crate) mod resources;
pub(crate) mod run;
