//! Development tasks.

mod debian_packages;
mod guest_image;

use std::path::PathBuf;

use clap::Parser;

/// Development tasks.
#[derive(Debug, Parser)]
enum Task {
    /// Builds the Linux that the lab's virtual machines run
    GuestImage {
        /// Where it goes, and where downloads are kept
        #[arg(long, default_value = "target/lab")]
        out_dir: PathBuf,
        /// Where azdr-agent and azdr-thawd are, if they have been built
        #[arg(long, default_value = "target/debug")]
        agent_dir: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::GuestImage { out_dir, agent_dir } => {
            debian_packages::ensure_host_packages(&out_dir.join("apt"))?;
            let image = guest_image::ensure_guest_image(&out_dir, &agent_dir)?;
            if !image.has_agent {
                eprintln!("the image is without the agent: {} lacks it", agent_dir.display());
            }
            println!("{image:#?}");
        }
    }
    Ok(())
}
