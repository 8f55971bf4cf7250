//! `azdr alert close`

use azdr_proto::admin::CloseAlertRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::json;
use crate::session::Session;

/// Close an alert that nothing else will end
///
/// Who closed it, when and why is recorded and listed. What is so for a while (an RPO that is missed, a VM
/// that is gone, …) stays closed for as long as it goes on, and is a new alert when it comes again after it
/// has ended; a job that fails again is a new alert as well. That a job is stuck cannot be closed: decide
/// on the job.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr alert close 43 --reason \"web-7 is not tested any more\"")]
pub(crate) struct Close {
    /// ID of the alert, as azdr alert list shows it
    #[arg(allow_negative_numbers = true, value_parser = crate::whole::alert)]
    id: i64,
    /// Why, for whoever wonders later; one line of up to 500 characters
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
}

impl Close {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = CloseAlertRequest { id: self.id, reason: self.reason };
        let alert = s.client.close_alert(request).await?.into_inner();
        s.out.result(json::alert(&alert), |style| {
            let mut text = style.headline(true, &format!("Alert {} is closed", alert.id));
            text.push_str(&format!("\n  {}\n", alert.what));
            if alert.lasts {
                text.push_str(
                    "  It is still so: a new alert comes only when it has ended and is so again\n",
                );
            }
            text
        });
        Ok(())
    }
}
