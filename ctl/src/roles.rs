//! Which role each command needs, as its `--help` says it.
//!
//! The controller decides: this table only tells people beforehand. Commands that need more for some
//! of what they do say so in their own help.

use clap::Command;

/// Of a command that asks no controller.
const NONE: &str = "";

/// Commands by path.
const ROLES: &[(&str, &str)] = &[
    ("agent list", "viewer"),
    ("agent preflight", "operator"),
    ("agent revoke", "admin"),
    ("agent token", "operator"),
    ("alert close", "operator"),
    ("alert list", "viewer"),
    ("backup config-show", "viewer"),
    ("backup configure", "operator"),
    ("backup cost", "viewer"),
    ("backup delete", "operator"),
    ("backup disable", "operator"),
    ("backup explain", "viewer"),
    ("backup list", "viewer"),
    ("backup pin", "operator"),
    ("backup replicate", "operator"),
    ("backup replicate-all", "operator"),
    ("backup replication-jobs", "viewer"),
    ("backup replication-status", "viewer"),
    ("backup restore", "operator"),
    ("backup show", "viewer"),
    ("backup trigger", "operator"),
    ("backup unpin", "operator"),
    ("backup verification-report", "viewer"),
    ("backup verify", "operator"),
    ("backup verify-all", "operator"),
    ("completion", NONE),
    ("dr failover", "operator"),
    ("dr success-rate", "viewer"),
    ("dr test", "operator"),
    ("dr test-all", "operator"),
    ("dr test-history", "viewer"),
    ("job abandon", "admin"),
    ("job approve", "operator"),
    ("job cancel", "operator"),
    ("job list", "viewer"),
    ("job retry", "operator"),
    ("job show", "viewer"),
    ("job undo", "operator"),
    ("job watch", "viewer"),
    ("man", NONE),
    ("operator add", "admin"),
    ("operator list", "viewer"),
    ("operator renew", "viewer"),
    ("operator revoke", "admin"),
    ("policy apply", "operator"),
    ("policy diff", "viewer"),
    ("policy follow", "operator"),
    ("policy list", "viewer"),
    ("policy next", "viewer"),
    ("policy schema", NONE),
    ("policy show", "viewer"),
    ("policy simulate", "viewer"),
    ("residue list", "viewer"),
    ("retention release", "admin"),
    ("ssh", NONE),
    ("status", "viewer"),
    ("vm list", "viewer"),
    ("whoami", "viewer"),
];

/// Has the help of every command say which role it needs.
pub(crate) fn stated(command: Command) -> Command {
    below(command, "")
}

fn below(command: Command, path: &str) -> Command {
    let names: Vec<String> =
        command.get_subcommands().map(|child| child.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        let path = format!("{path} {name}").trim().to_owned();
        command.mut_subcommand(name, |child| {
            let child = below(child, &path);
            let Some((_, role)) = ROLES.iter().find(|(known, _)| *known == path) else {
                return child;
            };
            let rest = child.get_after_help().map(ToString::to_string).unwrap_or_default();
            let needs = match *role {
                NONE => "Needs no role: it asks no controller".to_owned(),
                role => format!("Needs role: {role}"),
            };
            child.after_help(format!("{needs}\n\n{rest}"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &Command, path: &str, found: &mut Vec<String>) {
        let mut leaf = true;
        for child in command.get_subcommands() {
            leaf = false;
            leaves(child, format!("{path} {}", child.get_name()).trim(), found);
        }
        if leaf {
            found.push(path.to_owned());
        }
    }

    #[test]
    fn every_command_states_its_role_and_no_role_is_of_a_command_that_is_gone() {
        let mut found = Vec::new();
        leaves(&crate::command(), "", &mut found);
        found.sort();
        let mut stated: Vec<&str> = ROLES.iter().map(|(path, _)| *path).collect();
        stated.sort_unstable();
        assert_eq!(found, stated);
    }

    #[test]
    fn the_roles_are_those_of_the_interface() {
        let mut needed = std::collections::BTreeMap::new();
        let mut role = "";
        for line in include_str!("../../proto/proto/admin.proto").lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("// Role: ") {
                role = rest.split(['.', ';']).next().unwrap();
            } else if let Some(rest) = line.strip_prefix("rpc ") {
                needed.insert(rest.split('(').next().unwrap(), role);
            }
        }
        for (path, call) in [
            ("agent preflight", "RunPreflight"),
            ("agent revoke", "RevokeAgent"),
            ("agent token", "CreateAgentToken"),
            ("alert close", "CloseAlert"),
            ("alert list", "ListAlerts"),
            ("backup configure", "ConfigureBackup"),
            ("backup delete", "StartDeletion"),
            ("backup disable", "DisableBackup"),
            ("backup pin", "PinPoint"),
            ("backup replicate", "StartReplicate"),
            ("backup replicate-all", "StartReplicateAll"),
            ("backup replication-jobs", "ListReplicationJobs"),
            ("backup restore", "StartRestore"),
            ("backup show", "GetPoint"),
            ("backup trigger", "TriggerBackup"),
            ("backup verification-report", "GetVerificationReport"),
            ("backup verify", "StartVerify"),
            ("backup verify-all", "StartVerifyAll"),
            ("dr failover", "StartRestore"),
            ("dr success-rate", "GetDrSuccessRate"),
            ("dr test", "StartDrTest"),
            ("dr test-all", "StartDrTestAll"),
            ("job abandon", "AbandonJob"),
            ("job approve", "ApproveJob"),
            ("job cancel", "CancelJob"),
            ("job retry", "RetryJob"),
            ("job undo", "UndoJob"),
            ("operator add", "AddOperator"),
            ("operator list", "ListOperators"),
            ("operator renew", "RenewOperator"),
            ("operator revoke", "RevokeOperator"),
            ("policy apply", "ApplyPolicies"),
            ("policy follow", "FollowPolicies"),
            ("retention release", "ReleaseRetention"),
            ("status", "GetStatus"),
        ] {
            let stated = ROLES.iter().find(|(known, _)| *known == path).unwrap().1;
            assert_eq!(Some(&stated), needed.get(call), "{path}");
        }
    }
}
