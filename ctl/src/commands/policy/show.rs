//! `azdr policy show`

use azdr_proto::admin::{BackupConfig, GetBackupConfigRequest};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::quantity::{minute, span};
use crate::session::Session;
use crate::{json, names};

/// Show a VM's policy, as a file that `azdr policy diff` and `azdr policy simulate` read
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr policy show prod-db-vm > new.yaml\n  \
    azdr policy diff prod-db-vm -f new.yaml")]
pub(crate) struct Show {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
}

impl Show {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = GetBackupConfigRequest { vm: s.vm(&self.vm) };
        let config = s.client.get_backup_config(request).await?.into_inner();
        s.out.result(json::backup_config(&config), |_| text(&config));
        Ok(())
    }
}

fn text(config: &BackupConfig) -> String {
    let state = match (config.enabled, config.next_run_unix_ms) {
        (false, _) => "off: nothing is taken, nothing is deleted".to_owned(),
        (true, _) if config.gone_since_unix_ms != 0 => {
            "enabled; the VM is not in Azure any more: nothing is taken until it is back".to_owned()
        }
        (true, 0) => "enabled".to_owned(),
        (true, at) => format!("enabled, next run {} UTC", minute(at)),
    };
    let target = match config.target_region.as_str() {
        "" => "none",
        region => region,
    };
    let span = |secs: u32| if secs == 0 { "none".to_owned() } else { span(secs) };
    let origin = match config.origin.as_str() {
        "" => "set by hand".to_owned(),
        name => format!("from policy {name}"),
    };
    format!(
        "# Policy of {} ({state}; {origin})\ndaily: {}\nweekly: {}\nmonthly: {}\nyearly: {}\ntime: \"{}\"\n\
         time_zone: {}\nconsistency: {}\ntarget_region: {target}\nrpo: {}\nrto: {}\n\
         verify_every: {}\ndrill_every: {}\n",
        config.vm_name,
        config.daily_retention,
        config.weekly_retention,
        config.monthly_retention,
        config.yearly_retention,
        config.schedule_time,
        config.time_zone,
        names::consistency_demand(config.consistency).unwrap_or_else(|| "prefer".to_owned()),
        span(config.rpo_secs),
        span(config.rto_secs),
        span(config.verify_every_secs),
        span(config.drill_every_secs),
    )
}
