//! `azdr residue …`

pub(crate) mod list;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Residue {
    List(list::List),
}
