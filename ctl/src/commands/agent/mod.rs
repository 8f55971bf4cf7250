//! `azdr agent …`

pub(crate) mod list;
pub(crate) mod preflight;
pub(crate) mod revoke;
pub(crate) mod token;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Agent {
    Token(token::Token),
    List(list::List),
    Preflight(preflight::Preflight),
    Revoke(revoke::Revoke),
}
