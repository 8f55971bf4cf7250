//! The azdr controller: the only writer of Azure resources and of the catalogue.
//!
//! A guided tour, from the edge inwards:
//!
//! | module | owns |
//! |---|---|
//! | [`config`], [`init`], [`rebuild`] | configuration, a new installation, a lost one |
//! | [`app`], [`parts`] | wiring: the daemon, and what it shares with simulation and tests |
//! | [`api`] | gRPC: operators ([`api::admin`]), agents ([`api::agent_service`]), enrolment |
//! | [`reconcile`] | loops that start runs, write tags or judge: due backups, residue, policies, pins, alerts |
//! | [`workflows`] | what azdr does to Azure, one file per workflow |
//! | [`workflow`] | the engine: journal, undo, locks, recovery |
//! | [`fleet`] | who is connected, and what they are asked |
//! | [`ssh_probe`] | a login to a machine from outside |
//! | [`store`] | SQLite: catalogue, journal, coordination |
//! | [`pki`] | the certificate authority's files, tokens, bundles |
//! | [`health`] | `/metrics`, `/healthz`, `/readyz` |
//!
//! The rules (schedule, retention, consistency) are in `azdr_domain`, pure; Azure is behind
//! `azdr_arm`. Arrows point downwards in this table and never back.

pub mod api;
pub mod app;
pub mod config;
pub mod fleet;
pub mod health;
pub mod init;
pub mod mutation;
pub mod parts;
pub mod pki;
pub mod rebuild;
pub mod reconcile;
pub mod ssh_probe;
pub mod store;
pub mod ticks;
pub mod workflow;
pub mod workflows;
