//! `azdr dr …`

pub(crate) mod failover;
pub(crate) mod success_rate;
pub(crate) mod test;
pub(crate) mod test_all;
pub(crate) mod test_history;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Dr {
    Test(test::Test),
    TestAll(test_all::TestAll),
    Failover(failover::Failover),
    TestHistory(test_history::TestHistory),
    SuccessRate(success_rate::SuccessRate),
}
