//! `azdr backup unpin`

use azdr_proto::admin::UnpinPointRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::pin;
use crate::error::CliError;
use crate::json;
use crate::session::Session;
use crate::which_point::WhichPoint;

/// Take back your pin of a backup
///
/// The pins of other operators keep holding it. To remove one of theirs (--owner) needs role admin.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup unpin prod-db-vm-backup-daily-20251201-0800")]
pub(crate) struct Unpin {
    #[command(flatten)]
    which: WhichPoint,
    /// Whose pin; your own if not given
    #[arg(long, value_name = "OPERATOR", value_parser = NonEmptyStringValueParser::new())]
    owner: Option<String>,
}

impl Unpin {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = UnpinPointRequest {
            recovery_point: self.which.point.clone(),
            vm: self.which.vm(s),
            owner: self.owner.unwrap_or_default(),
        };
        let point = s.client.unpin_point(request).await?.into_inner();
        s.out.result(json::recovery_point(&point), |style| {
            let headline = style.headline(true, &format!("Pin of {} removed", point.name));
            match point.pins.is_empty() {
                true => format!("{headline}\n  Nobody holds it now: the policy decides\n"),
                false => format!("{headline}\n  Still held by:\n{}", pin::text(&point, style)),
            }
        });
        Ok(())
    }
}
