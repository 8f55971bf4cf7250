//! `azdr job …`

pub(crate) mod cancel;
pub(crate) mod list;
pub(crate) mod show;
pub(crate) mod watch;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Job {
    List(list::List),
    Show(show::Show),
    Cancel(cancel::Cancel),
    Watch(watch::Watch),
}
