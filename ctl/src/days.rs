//! `--days`: how far a report looks back.

use std::time::Duration;

use azdr_env::{Clock, WallTime};
use clap::Args;

use crate::whole::whole;

/// A number of days up to now.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Days {
    /// How many days to look back, 1 to 3650
    #[arg(long, value_name = "N", default_value_t = 30)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<1, 3650>)]
    pub(crate) days: u32,
}

impl Days {
    pub(crate) fn since_unix_ms(self, clock: &dyn Clock) -> i64 {
        let span = Duration::from_secs(u64::from(self.days) * 24 * 3600);
        WallTime::minus(clock.wall(), span).unix_ms()
    }

    /// "Last 30 Days".
    pub(crate) fn words(self) -> String {
        match self.days {
            1 => "Last Day".to_owned(),
            n => format!("Last {n} Days"),
        }
    }
}
