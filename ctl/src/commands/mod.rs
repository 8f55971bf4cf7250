//! One module per noun, one file per verb.

pub(crate) mod agent;
pub(crate) mod alert;
pub(crate) mod backup;
pub(crate) mod completion;
pub(crate) mod dr;
pub(crate) mod job;
pub(crate) mod man;
pub(crate) mod operator;
pub(crate) mod policy;
pub(crate) mod residue;
pub(crate) mod retention;
pub(crate) mod ssh;
pub(crate) mod status;
pub(crate) mod vm;
pub(crate) mod whoami;

use crate::cli::{Cli, Noun};
use crate::error::CliError;
use crate::output::Output;
use crate::session::Session;

/// Runs the command.
pub(crate) async fn run(cli: Cli, out: Output) -> Result<(), CliError> {
    // They answer by themselves: asking a controller first would only add ways to fail.
    match cli.noun {
        Noun::Ssh(command) => return Err(command.refuse()),
        Noun::Policy(policy::Policy::Schema(command)) => return command.run(out),
        Noun::Completion(command) => return command.run(out),
        Noun::Man(command) => return command.run(out),
        _ => {}
    }
    let mut session = Session::open(&cli.global, out).await?;
    let s = &mut session;
    if !matches!(cli.noun, Noun::Operator(operator::Operator::Renew(_))) {
        s.warn_of_expiry();
    }
    match cli.noun {
        Noun::Vm(vm::Vm::List(command)) => command.run(s).await,
        Noun::Agent(verb) => match verb {
            agent::Agent::Token(command) => command.run(s).await,
            agent::Agent::List(command) => command.run(s).await,
            agent::Agent::Preflight(command) => command.run(s).await,
            agent::Agent::Revoke(command) => command.run(s).await,
        },
        Noun::Backup(verb) => match verb {
            backup::Backup::Configure(command) => command.run(s).await,
            backup::Backup::ConfigShow(command) => command.run(s).await,
            backup::Backup::Disable(command) => command.run(s).await,
            backup::Backup::Trigger(command) => command.run(s).await,
            backup::Backup::List(command) => command.run(s).await,
            backup::Backup::Show(command) => command.run(s).await,
            backup::Backup::Restore(command) => command.run(s).await,
            backup::Backup::Replicate(command) => command.run(s).await,
            backup::Backup::ReplicateAll(command) => command.run(s).await,
            backup::Backup::ReplicationStatus(command) => command.run(s).await,
            backup::Backup::ReplicationJobs(command) => command.run(s).await,
            backup::Backup::Verify(command) => command.run(s).await,
            backup::Backup::VerifyAll(command) => command.run(s).await,
            backup::Backup::VerificationReport(command) => command.run(s).await,
            backup::Backup::Pin(command) => command.run(s).await,
            backup::Backup::Unpin(command) => command.run(s).await,
            backup::Backup::Delete(command) => command.run(s).await,
            backup::Backup::Explain(command) => command.run(s).await,
            backup::Backup::Cost(command) => command.run(s).await,
        },
        Noun::Policy(verb) => match verb {
            policy::Policy::Show(command) => command.run(s).await,
            policy::Policy::List(command) => command.run(s).await,
            policy::Policy::Next(command) => command.run(s).await,
            policy::Policy::Simulate(command) => command.run(s).await,
            policy::Policy::Diff(command) => command.run(s).await,
            policy::Policy::Apply(command) => command.run(s).await,
            policy::Policy::Follow(command) => command.run(s).await,
            policy::Policy::Schema(command) => command.run(out),
        },
        Noun::Dr(verb) => match verb {
            dr::Dr::Test(command) => command.run(s).await,
            dr::Dr::TestAll(command) => command.run(s).await,
            dr::Dr::Failover(command) => command.run(s).await,
            dr::Dr::TestHistory(command) => command.run(s).await,
            dr::Dr::SuccessRate(command) => command.run(s).await,
        },
        Noun::Job(verb) => match verb {
            job::Job::List(command) => command.run(s).await,
            job::Job::Show(command) => command.run(s).await,
            job::Job::Cancel(command) => command.run(s).await,
            job::Job::Retry(command) => command.run(s).await,
            job::Job::Undo(command) => command.run(s).await,
            job::Job::Abandon(command) => command.run(s).await,
            job::Job::Approve(command) => command.run(s).await,
            job::Job::Watch(command) => command.run(s).await,
        },
        Noun::Alert(verb) => match verb {
            alert::Alert::List(command) => command.run(s).await,
            alert::Alert::Close(command) => command.run(s).await,
        },
        Noun::Residue(residue::Residue::List(command)) => command.run(s).await,
        Noun::Retention(retention::Retention::Release(command)) => command.run(s).await,
        Noun::Operator(verb) => match verb {
            operator::Operator::Add(command) => command.run(s).await,
            operator::Operator::List(command) => command.run(s).await,
            operator::Operator::Revoke(command) => command.run(s).await,
            operator::Operator::Renew(command) => command.run(s).await,
        },
        Noun::Status(command) => command.run(s).await,
        Noun::Whoami(command) => command.run(s).await,
        Noun::Completion(command) => command.run(out),
        Noun::Man(command) => command.run(out),
        Noun::Ssh(command) => Err(command.refuse()),
    }
}
