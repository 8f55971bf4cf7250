//! `azdr dr …`

pub(crate) mod success_rate;
pub(crate) mod test;
pub(crate) mod test_history;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Dr {
    Test(test::Test),
    TestHistory(test_history::TestHistory),
    SuccessRate(success_rate::SuccessRate),
}
