//! Reading all that a disk or snapshot holds, and hashing it in spans.
//!
//! It takes hours for a large disk, so it is done in calls of some minutes ([`StepError::NotYet`] in
//! between), each with read access of its own: no grant has to outlive one call, and one that expires or is
//! revoked meanwhile ends the call and not the work. At the end of each call the hashes of the whole spans so
//! far are the step's checkpoint; a controller that is killed reads again what the call had read. The
//! checkpoint (1.3 MB at most) goes when the step's undo saves its own.
//!
//! Bounds: `READS_AT_ONCE` pieces of `PIECE` bytes of each of [`WHOLE_DISKS_AT_ONCE`] disks in memory, in
//! the whole controller; and of each a list of at most 500,000 ranges.

use std::time::Duration;

use azdr_arm::{ErrorClass, Sas};
use azdr_domain::content::{BLOCK_BYTES, LEAST_SPAN, ManifestError, SpanHasher, SpanManifest};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::SemaphorePermit;

use super::{StepCx, blocks};
use crate::workflow::StepError;

/// How many disks are read at once by all runs together: 128 MiB in memory.
pub const WHOLE_DISKS_AT_ONCE: usize = 8;
/// How long the reading of one disk may take in all; then its step has failed.
pub const WHOLE_LIMIT: Duration = Duration::from_secs(72 * 3600);
/// How many pieces of one disk are asked for at once.
const READS_AT_ONCE: usize = 4;
/// One read: the smallest span, so that no piece is in two.
const PIECE: u64 = LEAST_SPAN;
/// What a call leaves for the next.
#[derive(Serialize, Deserialize)]
struct SoFar {
    /// The first block that is not in the hashes.
    next_block: u64,
    /// What was read of those before it.
    bytes_read: u64,
    hashes: SpanManifest,
}

/// All that a disk holds.
pub struct WholeDisk {
    /// Its hashes.
    pub hashes: SpanManifest,
    /// What was read for them: blocks that Azure lists as empty are not.
    pub bytes_read: u64,
}

/// Whether an earlier call of this step has read some of it.
///
/// # Errors
/// When the step's checkpoint is that of something else.
pub fn has_begun<I>(cx: &StepCx<I>) -> Result<bool, StepError> {
    Ok(cx.checkpoint::<SoFar>()?.is_some())
}

/// A place among the disks that are read at once, for one call; to be taken before access is granted. Not
/// waited for: a run that is asked to stop meanwhile would not hear of it.
///
/// # Errors
/// `NotYet` when there is none.
pub fn place<I>(cx: &StepCx<I>) -> Result<SemaphorePermit<'_>, StepError> {
    let services = cx.services();
    services.whole_disks.try_acquire().map_err(|_| {
        let detail = format!("waiting: {WHOLE_DISKS_AT_ONCE} disks are being read");
        StepError::not_yet(detail, services.settings.look_again)
    })
}

/// Hashes all of a disk or snapshot, in spans of this size. Access is granted by each call of the step,
/// for longer than [`Settings::read_for`](super::Settings::read_for), and revoked by its undo.
///
/// # Errors
/// `NotYet` while there is more to be read: the next call goes on. `Cancelled` and `ShuttingDown`;
/// `not_readable` when it is shorter than `size_bytes`; else by class, as long as nothing was read.
pub async fn hash_whole<I>(
    cx: &StepCx<I>,
    sas: &Sas,
    size_bytes: u64,
    span_bytes: u64,
) -> Result<WholeDisk, StepError> {
    let mut reading = match cx.checkpoint::<SoFar>()? {
        Some(so_far) => Reading {
            hasher: SpanHasher::resume(so_far.hashes, so_far.next_block),
            before_span: so_far.bytes_read,
            bytes_read: so_far.bytes_read,
        },
        None => Reading {
            hasher: SpanHasher::new(size_bytes, span_bytes),
            before_span: 0,
            bytes_read: 0,
        },
    };
    let began = reading.hasher.next();
    let Err(error) = reading.go_on(cx, sas, size_bytes).await else {
        let hashes = reading.hasher.finish().map_err(|e| internal(&e))?;
        return Ok(WholeDisk { hashes, bytes_read: reading.bytes_read });
    };
    let has_moved = reading.hasher.next() > began;
    if has_moved && !matches!(error, StepError::Cancelled | StepError::Store(_)) {
        let hashes = reading.hasher.so_far().map_err(|e| internal(&e))?;
        let (next_block, bytes_read) = (reading.hasher.next(), reading.before_span);
        cx.save_checkpoint(Some(&SoFar { next_block, bytes_read, hashes })).await?;
    }
    Err(match error {
        // Only what keeps failing has failed: here something was read in between.
        StepError::Retry { failure, after } if has_moved => StepError::NotYet {
            detail: format!("going on after: {}", failure.message),
            percent: None,
            after: after.unwrap_or(cx.services().settings.look_again),
            resource: failure.resource,
        },
        error => error,
    })
}

struct Reading {
    hasher: SpanHasher,
    /// Read of the spans that are whole.
    before_span: u64,
    /// And in all.
    bytes_read: u64,
}

impl Reading {
    /// Reads until the end, or until the call is over.
    async fn go_on<I>(
        &mut self,
        cx: &StepCx<I>,
        sas: &Sas,
        size_bytes: u64,
    ) -> Result<(), StepError> {
        let azure = &cx.services().azure;
        let (began, since) = (self.hasher.next(), cx.monotonic());
        let is_over =
            || cx.monotonic().since(since) >= cx.services().settings.read_for || cx.call_is_over();
        let population =
            blocks::population(cx, sas, size_bytes).await.map_err(|e| self.failed(e))?;
        let all = population.total() * BLOCK_BYTES;
        let pieces = population.pieces(began, PIECE / BLOCK_BYTES);
        let mut reads = futures::stream::iter(pieces)
            .map(|(first, count)| {
                let (azure, sas) = (azure.clone(), sas.clone());
                let offset = first * BLOCK_BYTES;
                let length = (count * BLOCK_BYTES).min(size_bytes - offset);
                async move { (first, length, azure.read_range(&sas, offset, length).await) }
            })
            .buffered(READS_AT_ONCE);
        while let Some((first, length, bytes)) = reads.next().await {
            cx.check_stop()?;
            let bytes = bytes.map_err(|e| self.failed(e.into()))?;
            if bytes.len() as u64 != length {
                let offset = first * BLOCK_BYTES;
                let message = format!("reading {length} bytes at {offset} gave {}", bytes.len());
                return Err(StepError::fail("not_readable", message));
            }
            let span = self.hasher.next();
            self.hasher.add(first, &bytes);
            if self.hasher.next() != span {
                self.before_span = self.bytes_read;
            }
            self.bytes_read += length;
            let detail = format!("read {} of {} MiB", self.bytes_read >> 20, all >> 20);
            // Blocks at the end of a disk are shorter.
            let percent = Some((self.bytes_read as f64 * 100.0 / all as f64).min(100.0));
            if is_over() && self.hasher.next() > began {
                let after = Duration::ZERO;
                return Err(StepError::NotYet { detail, percent, after, resource: None });
            }
            cx.progress(detail, percent);
        }
        Ok(())
    }

    /// Access that was refused once something was read has expired, or was revoked by somebody: the next
    /// call is granted it anew.
    fn failed(&self, error: StepError) -> StepError {
        let denied = format!("azure_{}", ErrorClass::Denied);
        match error {
            StepError::Fail(failure) if *failure.kind == *denied && self.bytes_read > 0 => {
                StepError::Retry { failure, after: None }
            }
            error => error,
        }
    }
}

fn internal(error: &ManifestError) -> StepError {
    StepError::fail("internal", error.to_string())
}
