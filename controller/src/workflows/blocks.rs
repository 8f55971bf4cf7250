//! Reading the blocks of a disk or snapshot through a grant, and hashing them.
//!
//! What is read here costs no request of ARM's: blob storage answers. Blocks are read one after the other:
//! proofs are in no hurry, and must not take a VM's or the controller's network for themselves.

use azdr_arm::{ErrorClass, Sas};
use azdr_domain::content::{BlockHash, Population, place};

use super::StepCx;
use crate::workflow::StepError;

/// How many answers of 10,000 ranges each are asked for; what lies behind them counts as data.
const ANSWERS: usize = 50;

/// Which blocks hold data. Where that cannot be told, all of them count.
///
/// # Errors
/// By class.
pub async fn population<I>(
    cx: &StepCx<I>,
    sas: &Sas,
    size_bytes: u64,
) -> Result<Population, StepError> {
    let azure = &cx.services().azure;
    let (mut ranges, mut after) = (Vec::new(), None::<String>);
    for _ in 0..ANSWERS {
        let more = match azure.data_ranges(sas, after.as_deref()).await {
            Ok(answer) => answer,
            // Not every kind of disk can tell.
            Err(e) if e.class == ErrorClass::Invalid => return Ok(Population::whole(size_bytes)),
            Err(e) => return Err(e.into()),
        };
        ranges.extend(more.ranges);
        after = more.next;
        if after.is_none() {
            return Ok(Population::of_ranges(size_bytes, ranges));
        }
    }
    let known = ranges.last().map_or(0, |(_, end)| *end);
    ranges.push((known, size_bytes));
    Ok(Population::of_ranges(size_bytes, ranges))
}

/// The hashes of these blocks, in their order.
///
/// # Errors
/// `not_readable` when a block is shorter than the disk says; else by class.
pub async fn hashes<I>(
    cx: &StepCx<I>,
    sas: &Sas,
    size_bytes: u64,
    blocks: &[u64],
) -> Result<Vec<BlockHash>, StepError> {
    let mut hashes = Vec::with_capacity(blocks.len());
    for block in blocks {
        let (offset, length) = place(*block, size_bytes);
        let bytes = cx.services().azure.read_range(sas, offset, length).await?;
        if bytes.len() as u64 != length {
            let message = format!("reading {length} bytes at {offset} gave {}", bytes.len());
            return Err(StepError::fail("not_readable", message));
        }
        hashes.push(BlockHash::of(&bytes));
        let done = hashes.len() as f64 * 100.0 / blocks.len() as f64;
        cx.progress(format!("hashed {} of {} blocks", hashes.len(), blocks.len()), Some(done));
    }
    Ok(hashes)
}
