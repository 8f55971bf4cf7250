//! `azdr vm …`

pub(crate) mod list;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Vm {
    List(list::List),
}
