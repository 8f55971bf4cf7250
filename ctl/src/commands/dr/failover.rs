//! `azdr dr failover`

use azdr_proto::admin::PlanRestoreRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Wait;
use crate::commands::backup::restore::{caution, heading, start};
use crate::error::CliError;
use crate::point_in_time::PointInTime;
use crate::session::Session;
use crate::{confirm, names, watch};

/// Recover a VM in another region, from the copy of a backup there, and keep it
///
/// It works while the VM's own region is down. The original VM is not touched: if it still runs, there
/// are two of it afterwards, so it needs a "yes" at the terminal or --yes. DNS is not changed. Ctrl-C
/// ends the watching; the failover goes on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr dr failover prod-db-vm --target-region westus2\n  \
    azdr dr failover prod-db-vm --target-region westus2 \
    \\\n      --backup prod-db-vm-backup-daily-20251201-0800 --yes")]
pub(crate) struct Failover {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// Region to recover it in
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    target_region: String,
    /// The backup, by a name as `azdr backup show` takes it; the newest one that is complete in the target
    /// region if not given
    #[arg(long, value_name = "POINT", value_parser = NonEmptyStringValueParser::new())]
    backup: Option<String>,
    /// Take the newest backup that shows the VM at or before this time: "2025-12-01 07:00" (UTC), a time
    /// in RFC 3339, or 2h for two hours ago
    #[arg(long, value_name = "TIME", conflicts_with = "backup")]
    at: Option<PointInTime>,
    /// Name of the new VM; made from the VM's name and the region if not given
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    new_vm: Option<String>,
    /// Resource group of the new VM, created if it does not exist; named after the VM's group and the
    /// region if not given
    #[arg(long, value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    target_resource_group: Option<String>,
    /// ARM resource ID of a subnet in the target region; a network of its own is created if not given
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    target_subnet: Option<String>,
    /// Do not ask before a second copy of the VM is started
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Failover {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        if !self.yes {
            confirm::needs_terminal("confirm the failover", "Add --yes to go on without asking.")?;
        }
        let request = PlanRestoreRequest {
            vm: s.vm(&self.vm),
            recovery_point: self.backup.unwrap_or_default(),
            new_vm_name: self.new_vm.unwrap_or_default(),
            at_unix_ms: self.at.map_or(0, |at| at.unix_ms(s.clock.wall())),
            target_region: self.target_region.clone(),
            target_resource_group: self.target_resource_group.unwrap_or_default(),
            target_subnet: self.target_subnet.unwrap_or_default(),
        };
        let plan = s.client.plan_restore(request).await?.into_inner();
        let vm = names::last_segment(&self.vm);
        let title = format!("Failing {vm} over to {}...", self.target_region);
        s.out.text(&heading(&title, &plan));
        let warning = format!("{}\n", caution(&plan, false, s.out.err));
        if self.yes {
            s.out.words(&warning);
        } else {
            s.out.aside(&warning);
            confirm::ask("Proceed?")?;
        }
        let job = start(s, &plan).await?;
        watch::conclude(s, job, self.wait).await?;
        let new_vm = names::last_segment(&plan.vm_resource_id);
        s.out.words(&format!(
            "\nNext: point name service and load balancers to it, and protect it:\n  \
             azdr backup configure {new_vm}\n"
        ));
        Ok(())
    }
}
