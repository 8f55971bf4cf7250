//! `azdr operator …`

pub(crate) mod add;
pub(crate) mod list;
pub(crate) mod renew;
pub(crate) mod revoke;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Operator {
    Add(add::Add),
    List(list::List),
    Revoke(revoke::Revoke),
    Renew(renew::Renew),
}
