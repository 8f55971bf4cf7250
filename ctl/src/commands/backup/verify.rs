//! `azdr backup verify`

use azdr_proto::admin::{ProofLevel, StartVerifyRequest};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::watch;
use crate::which_point::WhichPoint;

/// Prove that a backup can be restored: make a test disk of each of its snapshots, and read it
///
/// With --level content also that its content is unchanged: right after a backup the controller hashes some
/// blocks of its snapshots (300 of each disk, unless content.sampled_blocks says otherwise), and these blocks
/// are read and compared. The answer says how likely a small change would be missed; a difference fails,
/// naming disk, byte and hashes. Where everything was hashed (content.sampled_blocks = "all"), all of each disk
/// is read and compared, which takes hours where a disk holds a terabyte.
///
/// The test disks are deleted afterwards. Exits with 1 if the verification fails. Ctrl-C ends the
/// watching; the verification goes on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    azdr backup verify prod-db-vm-backup-daily-20251201-0800\n  \
    azdr backup verify daily-20251201 --vm prod-db-vm --region westus2 --level content")]
pub(crate) struct Verify {
    #[command(flatten)]
    which: WhichPoint,
    /// Verify the copy in this region instead of the original
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    region: Option<String>,
    /// What to prove: that it can be restored, or also that its content is unchanged
    #[arg(long, value_enum, default_value_t = Level::Restorable)]
    level: Level,
    #[command(flatten)]
    wait: Wait,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Level {
    /// Test disks can be made of it and read
    Restorable,
    /// And the blocks that were hashed when it was taken are equal
    Content,
}

impl Verify {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = StartVerifyRequest {
            recovery_point: self.which.point.clone(),
            vm: self.which.vm(s),
            region: self.region.unwrap_or_default(),
            level: match self.level {
                Level::Restorable => ProofLevel::Restorable,
                Level::Content => ProofLevel::Content,
            }
            .into(),
        };
        let job = s.client.start_verify(request).await?.into_inner();
        let name = self.which.chosen(&job);
        s.out.text(&format!("Verifying backup {name}...\n\n"));
        watch::conclude(s, job, self.wait).await
    }
}
