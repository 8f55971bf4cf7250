//! `azdr policy next`

use azdr_proto::admin::{ListUpcomingRunsRequest, ListUpcomingRunsResponse, ProofKind};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::again::{self, Again};
use crate::error::CliError;
use crate::output::rows;
use crate::quantity::minute;
use crate::session::Session;
use crate::table::Table;
use crate::whole::whole;
use crate::{json, names};

/// List a VM's next backups with their tiers, and the verifications and DR tests that become due
///
/// Times are shown in the policy's time zone and in UTC. No backup of a VM is begun while it is not in
/// Azure; the backups that there are go on being verified and tested.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr policy next prod-db-vm --count 10")]
pub(crate) struct Next {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// How many backups to list, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true, value_parser = whole::<1, 1000>)]
    count: u32,
    #[command(flatten)]
    again: Again,
}

impl Next {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = ListUpcomingRunsRequest { vm: s.vm(&self.vm), count: self.count };
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_upcoming_runs(request.clone()).await?.into_inner();
            let document = json::upcoming_runs(&answer);
            Ok(s.out.many(&rows::UPCOMING_RUNS, document, |_| text(&answer)))
        })
        .await
    }
}

fn text(answer: &ListUpcomingRunsResponse) -> String {
    if !answer.enabled {
        return format!("Backups of {} are disabled: there is no next run\n", answer.vm_name);
    }
    let heading = format!("LOCAL ({})", answer.time_zone);
    let vm = &answer.vm_name;
    let mut rows: Vec<(i64, [String; 3])> = vec![];
    for run in &answer.runs {
        let tiers: Vec<String> = run.tiers.iter().filter_map(|t| names::tier(*t)).collect();
        let at = run.scheduled_unix_ms;
        rows.push((at, [local(&run.local), minute(at), tiers.join(", ")]));
    }
    for proof in &answer.proofs {
        let what = match proof.kind() {
            ProofKind::Drill => "DR test due",
            _ => "verification due",
        };
        let at = proof.due_unix_ms;
        rows.push((at, [local(&proof.local), minute(at), what.to_owned()]));
    }
    rows.sort_by_key(|(at, _)| *at);
    let is_gone = answer.gone_since_unix_ms != 0;
    let third = if is_gone { "WHAT" } else { "TIERS" };
    let mut table = Table::new(&[heading.as_str(), "UTC", third]);
    let any = !rows.is_empty();
    for (_, row) in rows {
        table.row(row);
    }
    if is_gone {
        let proofs = match any {
            true => {
                format!("\nWhat is due for the backups that there are:\n{}", table.render("  "))
            }
            false => String::new(),
        };
        return format!(
            "{vm} is not in Azure any more (known since {} UTC): no backup is begun until it is back.\n\
             `azdr backup restore {vm} --new-vm NAME` makes a new VM of its backups, `azdr backup disable \
             {vm}` ends its policy\n{proofs}",
            minute(answer.gone_since_unix_ms)
        );
    }
    format!(
        "Next backups of {vm}:\n{}\nEach starts {}m {:02}s after its time, to spread the load\n",
        table.render("  "),
        answer.delay_secs / 60,
        answer.delay_secs % 60
    )
}

/// "2025-12-01T08:00:00+01:00", without the seconds.
fn local(time: &str) -> String {
    let (day, rest) = time.split_once('T').unwrap_or((time, ""));
    let (time, offset) = rest.split_at_checked(8).unwrap_or((rest, ""));
    let time = time.get(..5).unwrap_or(time);
    format!("{day} {time} {offset}").trim_end().to_owned()
}
