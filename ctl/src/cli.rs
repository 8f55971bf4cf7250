//! The command tree and the options that every command has.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    agent, alert, backup, completion, dr, job, man, operator, policy, residue, retention, ssh,
    status, vm, whoami,
};
use crate::whole::whole;

/// Backup and disaster recovery for Azure virtual machines.
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage, or a value that the controller calls invalid; 3 the
/// controller cannot be reached or denies access; 130 watching was ended with Ctrl-C (a job goes on).
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
    /// Context file, with the controller's address and the paths of the CA, your certificate and its key
    /// [env: AZDR_CONTEXT] [default: $XDG_CONFIG_HOME/azdr/context.toml, else
    /// ~/.config/azdr/context.toml]
    // The variable is read by `Context::load`: clap would take it for an argument that was given, show it in
    // every usage line, and no help to who types `azdr` alone.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) context_file: Option<PathBuf>,
    /// Resource group of the VM, for a name that several VMs have; for reports and `dr test-all`: only the
    /// VMs of this group
    #[arg(long, short = 'g', global = true, value_name = "GROUP", default_value = "")]
    #[arg(hide_default_value = true)]
    pub(crate) resource_group: String,
    /// How results and errors are printed
    #[arg(long, short = 'o', global = true, value_enum, value_name = "FORMAT")]
    #[arg(default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people: sentences and tables
    Text,
    /// For people: a bare table of the list, or of the fields
    Table,
    /// For programs: one JSON document on stdout; an error is one on stderr
    Json,
    /// For programs: the same document in YAML
    Yaml,
    /// For programs and spreadsheets: a line per item of the list, or per field
    Csv,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Noun {
    /// Virtual machines in the controller's subscriptions
    #[command(subcommand)]
    Vm(vm::Vm),
    /// Agents on the VMs
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Backups: schedule, take, list, restore, replicate, verify
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Policies: what they take, keep, delete and cost
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Disaster recovery: tests and failover
    #[command(subcommand)]
    Dr(dr::Dr),
    /// Jobs: what the controller is doing, has done, and waits for
    #[command(subcommand)]
    Job(job::Job),
    /// Alerts: what somebody should look at
    #[command(subcommand)]
    Alert(alert::Alert),
    /// Resources that are left behind in Azure
    #[command(subcommand)]
    Residue(residue::Residue),
    /// Whether backups may be deleted
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Operators: who may call the controller, and in which role
    #[command(subcommand)]
    Operator(operator::Operator),
    Status(status::Status),
    Whoami(whoami::Whoami),
    Completion(completion::Completion),
    Man(man::Man),
    Ssh(ssh::Ssh),
}

/// Options of commands that start a job.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Return as soon as the job is accepted, instead of watching it to its end
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// If the controller is lost while watching: for how many seconds to try again, 0 to 86400
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<0, 86_400>)]
    pub(crate) reconnect_for: u32,
}
