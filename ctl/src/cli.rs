//! The command tree and the options that every command has.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    agent, alert, backup, dr, job, operator, policy, residue, retention, ssh, status, vm, whoami,
};
use crate::whole::whole;

/// Backup and disaster recovery for Azure virtual machines.
///
/// Exit codes: 0 done, 1 failed, 2 usage or a value that the controller calls invalid, 3 the
/// controller cannot be reached or denies access, 130 stopped watching a job (which goes on).
#[derive(Parser, Debug)]
#[command(
    name = "azdr",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Example:\n  azdr backup trigger prod-db-vm"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

/// Options of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Context file: the controller's address and the paths of CA, certificate and key
    /// [default: $XDG_CONFIG_HOME/azdr/context.toml or ~/.config/azdr/context.toml]
    #[arg(long, global = true, env = "AZDR_CONTEXT", hide_env_values = true, value_name = "FILE")]
    pub(crate) context_file: Option<PathBuf>,
    /// Resource group of the VM, where its name alone is not unique
    #[arg(long, short = 'g', global = true, value_name = "GROUP", default_value = "")]
    #[arg(hide_default_value = true)]
    pub(crate) resource_group: String,
    /// How to print results
    #[arg(long, short = 'o', global = true, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Text for people
    Table,
    /// One JSON document on stdout; errors as an object on stderr
    Json,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Noun {
    /// Virtual machines of the controller's subscriptions
    #[command(subcommand)]
    Vm(vm::Vm),
    /// Agents on the VMs
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Backups: schedule, take, list, restore, replicate, verify
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Policies: what they will take, keep, delete and cost
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Disaster recovery tests
    #[command(subcommand)]
    Dr(dr::Dr),
    /// Jobs: what the controller does, did, and waits for
    #[command(subcommand)]
    Job(job::Job),
    /// Alerts: what somebody should look at
    #[command(subcommand)]
    Alert(alert::Alert),
    /// What is left behind in Azure
    #[command(subcommand)]
    Residue(residue::Residue),
    /// Whether backups may be deleted
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Who may call the controller
    #[command(subcommand)]
    Operator(operator::Operator),
    Status(status::Status),
    Whoami(whoami::Whoami),
    Ssh(ssh::Ssh),
}

/// Options of commands that start a job.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Return as soon as the job is accepted, instead of watching it to its end
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How many seconds to try again when the controller is lost while watching, up to 86400
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<0, 86_400>)]
    pub(crate) reconnect_for: u32,
}
