//! `azdr policy follow`

use azdr_proto::admin::FollowPoliciesRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::summary;
use crate::error::CliError;
use crate::json;
use crate::session::Session;

/// Replace a VM's own policy by the named one whose selector matches it
///
/// The VM's own policy is the one that was set with `azdr backup configure`. From now on the VM follows
/// the files of `azdr policy apply`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr policy follow prod-db-vm")]
pub(crate) struct Follow {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
}

impl Follow {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = FollowPoliciesRequest { vm: s.vm(&self.vm) };
        let config = s.client.follow_policies(request).await?.into_inner();
        s.out.result(json::backup_config(&config), |style| {
            let sentence = format!("{} follows policy {}", config.vm_name, config.origin);
            format!("{}\n  {}\n", style.headline(true, &sentence), summary(&config))
        });
        crate::commands::backup::configure::warn(s, &config);
        Ok(())
    }
}
