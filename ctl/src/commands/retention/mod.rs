//! `azdr retention …`

pub(crate) mod release;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Retention {
    Release(release::Release),
}
