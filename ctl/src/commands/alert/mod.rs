//! `azdr alert …`

pub(crate) mod close;
pub(crate) mod list;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Alert {
    List(list::List),
    Close(close::Close),
}
