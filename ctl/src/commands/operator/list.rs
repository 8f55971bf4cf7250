//! `azdr operator list`

use azdr_proto::admin::{ListOperatorsRequest, ListOperatorsResponse, Operator};
use clap::Args;

use crate::again::{self, Again};
use crate::error::CliError;
use crate::json;
use crate::output::rows;
use crate::quantity::minute;
use crate::session::Session;
use crate::table::Table;

/// List all operators, with their roles and until when their certificates are valid
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr operator list")]
pub(crate) struct List {
    #[command(flatten)]
    again: Again,
}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_operators(ListOperatorsRequest {}).await?.into_inner();
            let now = s.clock.wall().unix_ms();
            Ok(s.out.many(&rows::OPERATORS, json::operators(&answer), |_| text(&answer, now)))
        })
        .await
    }
}

fn text(answer: &ListOperatorsResponse, now: i64) -> String {
    let heading = ["NAME", "ROLE", "CERTIFICATE", "ADDED", "BY"];
    let mut table = Table::new(&heading);
    for operator in &answer.operators {
        let by = match operator.added_by.as_str() {
            "" => "azdr-controller",
            by => by,
        };
        table.row([
            operator.name.clone(),
            operator.role.clone(),
            certificate(operator, now),
            minute(operator.added_unix_ms),
            by.to_owned(),
        ]);
    }
    table.render("")
}

fn certificate(operator: &Operator, now: i64) -> String {
    if operator.revoked_unix_ms != 0 {
        let (at, by) = (minute(operator.revoked_unix_ms), &operator.revoked_by);
        return format!("revoked {at} by {by}");
    }
    let renewed = if operator.renewal_pending { ", renewed" } else { "" };
    match operator.certificate_expires_unix_ms {
        0 => "not used yet".to_owned(),
        ms if ms < now => format!("ended {}{renewed}", minute(ms)),
        ms => format!("until {}{renewed}", minute(ms)),
    }
}
