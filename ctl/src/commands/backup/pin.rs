//! `azdr backup pin`

use azdr_proto::admin::{PinPointRequest, RecoveryPoint};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::json;
use crate::quantity::minute;
use crate::session::Session;
use crate::style::Style;
use crate::until::Until;
use crate::which_point::WhichPoint;

/// Keep a backup in all regions, whatever the policy says
///
/// Every operator has at most one pin on a backup: pinning it again changes the end and the reason. In
/// Azure the pin shows as the tag azdr:pin on the backup's snapshots.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    azdr backup pin prod-db-vm-backup-daily-20251201-0800 --until 30d --reason \"audit 2025\"\n  \
    azdr backup pin prod-db-vm-backup-daily-20251201-0800 --until forever --reason evidence")]
pub(crate) struct Pin {
    #[command(flatten)]
    which: WhichPoint,
    /// Until when: 12h or 30d from now (m, h, d or w), a date in UTC (2026-12-01), a time in RFC 3339, or
    /// forever
    #[arg(long, value_name = "WHEN")]
    until: Until,
    /// Why, for whoever wonders later; one line of up to 200 characters
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
}

impl Pin {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let until = self.until.unix_ms(s.clock.wall());
        let request = PinPointRequest {
            recovery_point: self.which.point.clone(),
            vm: self.which.vm(s),
            until_unix_ms: until.unwrap_or_default(),
            forever: until.is_none(),
            reason: self.reason,
        };
        let point = s.client.pin_point(request).await?.into_inner();
        s.out.result(json::recovery_point(&point), |style| {
            let sentence = format!("{} is pinned", point.name);
            format!("{}\n{}", style.headline(true, &sentence), text(&point, style))
        });
        Ok(())
    }
}

/// Who holds the point, one line each.
pub(super) fn text(point: &RecoveryPoint, _style: Style) -> String {
    let mut text = String::new();
    for pin in &point.pins {
        let until = match pin.until_unix_ms {
            0 => "for ever".to_owned(),
            ms => format!("until {}", minute(ms)),
        };
        text.push_str(&format!("  {} {until}: {}\n", pin.owner, pin.reason));
    }
    text
}
