//! `azdr backup explain`

use azdr_proto::admin::{
    ExplainPointRequest, KeptUntil, KeptUntilKind, PointExplanation, RegionExplanation,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::quantity::{minute, second};
use crate::session::Session;
use crate::style::Style;
use crate::which_point::WhichPoint;
use crate::{json, names};

/// Say why a backup is kept in each region, and until when on the present schedule
///
/// The schedule is run forward until nothing keeps the backup any more. It is assumed that every backup
/// succeeds, that the jobs of now are over before the next one, and that nobody pins, verifies or
/// deletes anything. A backup goes in the pruning after another one, and an original not before its copy
/// is complete.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup explain prod-db-vm-backup-daily-20251201-0800")]
pub(crate) struct Explain {
    #[command(flatten)]
    which: WhichPoint,
    /// Explain this region only
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    region: Option<String>,
}

impl Explain {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = ExplainPointRequest {
            recovery_point: self.which.point.clone(),
            vm: self.which.vm(s),
            region: self.region.unwrap_or_default(),
        };
        let answer = s.client.explain_point(request).await?.into_inner();
        s.out.result(json::explanation(&answer), |style| text(&answer, style));
        Ok(())
    }
}

fn text(answer: &PointExplanation, style: Style) -> String {
    let mut text = String::new();
    if let Some(point) = &answer.point {
        let tiers: Vec<String> = point.tiers.iter().filter_map(|t| names::tier(*t)).collect();
        let tiers = names::or_dash(Some(tiers.join(", ")));
        let taken = second(point.created_unix_ms);
        text.push_str(&format!("{}\n  Taken: {taken}\n  Tiers: {tiers}\n", point.name));
    }
    text.push_str(&regions(&answer.regions, &answer.deletions_held, style));
    text
}

/// What keeps a point in each region, and until when.
pub(super) fn regions(regions: &[RegionExplanation], held: &str, style: Style) -> String {
    let mut text = String::new();
    if !held.is_empty() {
        text.push_str(&format!("{}: {held}; as if released:\n", style.warning()));
    }
    for region in regions {
        text.push_str(&format!("\nIn {}:\n", region.region));
        if region.reasons.is_empty() {
            text.push_str("  Nothing keeps it: the next pruning deletes it\n");
        }
        for reason in &region.reasons {
            text.push_str(&format!("  Kept: {}\n", reason.text));
        }
        text.push_str(&format!("  Until: {}", until(&region.until)));
        match region.until.as_ref().map(|u| u.reason.as_str()).unwrap_or_default() {
            "" => text.push('\n'),
            reason => text.push_str(&format!(" ({reason})\n")),
        }
    }
    text
}

/// When a point goes, in few words.
pub(crate) fn until(until: &Option<KeptUntil>) -> String {
    let Some(until) = until else { return "-".to_owned() };
    match until.kind() {
        KeptUntilKind::Run => format!("the backup of {} UTC", minute(until.until_unix_ms)),
        KeptUntilKind::Beyond => format!("beyond {} UTC", minute(until.until_unix_ms)),
        KeptUntilKind::NotOnSchedule => "no end on the present schedule".to_owned(),
        KeptUntilKind::Forever => "for ever".to_owned(),
        KeptUntilKind::Unspecified => "-".to_owned(),
    }
}
