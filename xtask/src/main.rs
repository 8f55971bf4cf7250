//! Development tasks: `cargo xtask demo`, `test`, `bench`, `dist`, `soak`, `simulate`, `lab`,
//! `guest-image`.

mod bench;
mod debian_guest;
mod debian_packages;
mod demo;
mod dist;
mod guest_image;
mod lab;
mod simulate;
mod soak;
mod tally;
mod test;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Development tasks
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
enum Task {
    /// Shows azdr at work: two virtual machines in a simulated Azure, from policy to DR test
    Demo(demo::Demo),
    /// Measures: one run on this machine, as it is
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Formatting, lints, documentation and every test: what CI runs
    Test(test::Test),
    /// The agent's packages: Debian and RPM
    Dist(dist::Dist),
    /// A mixed load on a controller that is killed at random instants, and what must hold then
    Soak(soak::Soak),
    /// What must be true of real virtual machines, case by case: freezes, deaths, restores, clones
    Lab(lab::Lab),
    /// Whole fleets on one thread, with everything that goes wrong, checked against I1 to I12
    Simulate(simulate::Simulate),
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

fn main() -> ExitCode {
    match run(Task::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Demo(demo) => demo.run(),
        Task::Bench(bench) => bench.run(),
        Task::Test(test) => test.run(),
        Task::Dist(dist) => dist.run(),
        Task::Soak(soak) => soak.run(),
        Task::Lab(lab) => lab.run(),
        Task::Simulate(simulate) => simulate.run(),
        Task::GuestImage { out_dir, agent_dir } => {
            debian_packages::ensure_host_packages(&out_dir.join("apt"))?;
            let image = guest_image::ensure_guest_image(&out_dir, &agent_dir)?;
            if !image.has_agent {
                eprintln!("the image is without the agent: {} lacks it", agent_dir.display());
            }
            println!("{image:#?}");
            Ok(ExitCode::SUCCESS)
        }
    }
}
