//! `azdr backup disable`

use azdr_proto::admin::DisableBackupRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::json;
use crate::quantity::count;
use crate::session::Session;

/// Stop a VM's scheduled backups; existing backups are kept, and no longer pruned
///
/// The policy stays, switched off: `azdr backup configure VM` without further options switches it on
/// again.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup disable prod-db-vm")]
pub(crate) struct Disable {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
}

impl Disable {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = DisableBackupRequest { vm: s.vm(&self.vm) };
        let config = s.client.disable_backup(request).await?.into_inner();
        s.out.result(json::backup_config(&config), |style| {
            let sentence = format!("Backups disabled for {}", config.vm_name);
            let kept = count(config.total_recovery_points, "backup");
            format!("{}\n  Kept: {kept}\n", style.headline(true, &sentence))
        });
        if !config.tag_written {
            let problem = &config.tag_problem;
            s.out.words(&format!("The VM's tag still shows the old policy: {problem}"));
        }
        super::configure::warn(s, &config);
        Ok(())
    }
}
