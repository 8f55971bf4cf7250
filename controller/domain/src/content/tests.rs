use proptest::prelude::*;

use super::*;

fn seed(n: u32) -> Seed {
    Seed::new(format!("{n:064x}"))
}

/// By counting sets, in whole numbers.
fn binomial(n: u64, k: u64) -> u128 {
    if k > n {
        return 0;
    }
    (0..k).fold(1, |sum, i| sum * u128::from(n - i) / u128::from(i + 1))
}

#[test]
fn the_probability_is_the_share_of_samples_that_miss_every_change() {
    for all in 0..=24 {
        for sampled in 0..=all {
            for changed in 0..=all {
                let (misses, sets) = (binomial(all - changed, sampled), binomial(all, sampled));
                let exact = misses as f64 / sets as f64;
                let computed = missed(all, sampled, changed);
                assert!((computed - exact).abs() < 1e-12, "{all} {sampled} {changed}: {computed}");
            }
        }
    }
}

#[test]
fn the_guides_example_holds() {
    // 2,995 blocks find 0.1 % of a large disk with 95 %.
    let all = 4 << 24;
    assert!((missed(all, 2995, all / 1000) - 0.05).abs() < 0.0005);
    // What is looked at without being asked for more.
    let usual = missed(all, u64::from(DEFAULT_SAMPLE), small_change(all));
    assert!((0.048..0.05).contains(&usual), "{usual}");
}

#[test]
fn what_a_comparison_is_worth_is_said_in_words_and_numbers() {
    let compared = |blocks, sampled| Compared { blocks, sampled, equal: sampled, difference: None };
    let words = |disks: &[Compared]| Worth::of(disks).to_string();
    assert_eq!(
        words(&[compared(2_000_000, 300), compared(1000, 1000)]),
        "1300 of 1300 sampled blocks equal, out of 2001000 with data; a change of 1 % of a disk's \
         blocks would be missed with probability 0.049 (1 in 20)"
    );
    assert_eq!(
        words(&[compared(12, 12)]),
        "12 of all 12 blocks with data equal: none was left out"
    );
    assert_eq!(words(&[]), "0 of all 0 blocks with data equal: none was left out");
    let said = |p: f64| Probability(p).to_string();
    assert_eq!(said(0.9), "0.90");
    assert_eq!(said(0.0004321), "0.00043 (1 in 2,314)");
    assert_eq!(said(1e-9), "below 0.000001 (1 in 1,000,000)");
}

/// One changed block, wherever it is, is found as often as stated: over 4,000 seeds the number of finds
/// lies where a fair coin of that probability puts it but for once in a billion.
#[test]
fn a_flipped_block_is_found_with_the_stated_probability() {
    const SEEDS: u32 = 4000;
    let population = Population::of_ranges(200 * BLOCK_BYTES, [(0, 200 * BLOCK_BYTES)]);
    for (size, changed) in [(20, vec![0]), (20, vec![199]), (50, vec![100, 101]), (3, vec![7])] {
        let finds = |n: &u32| {
            let chosen = sample(&seed(*n), None, &population, size);
            changed.iter().any(|block| chosen.contains(block))
        };
        let found = (0..SEEDS).filter(finds).count() as f64;
        let stated = 1.0 - missed(200, u64::from(size), changed.len() as u64);
        let expected = stated * f64::from(SEEDS);
        // Six standard deviations.
        let bound = 6.0 * (expected * (1.0 - stated)).sqrt();
        assert!((found - expected).abs() < bound, "{size} {changed:?}: {found}, not {expected}");
    }
}

/// The whole way: hashes of bytes, one bit flipped, the difference named.
#[test]
fn a_flipped_bit_in_a_sampled_block_is_named_and_in_another_is_not_seen() {
    let size = 40 * BLOCK_BYTES + 100;
    let mut disk: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
    let population = Population::whole(size);
    let hashes = |disk: &[u8], blocks: &[u64]| -> Vec<BlockHash> {
        let hash = |block: &u64| {
            let (offset, length) = place(*block, size);
            BlockHash::of(&disk[offset as usize..(offset + length) as usize])
        };
        blocks.iter().map(hash).collect()
    };
    let blocks = sample(&seed(1), Some(3), &population, 10);
    let taken = blocks.iter().copied().zip(hashes(&disk, &blocks)).collect();
    let manifest = Manifest::new(size, population.total(), taken).unwrap();
    assert_eq!(manifest.compare(&hashes(&disk, &blocks)).equal, 10);
    for block in 0..41 {
        let (offset, length) = place(block, size);
        let at = (offset + length - 1) as usize;
        let before = disk[at];
        disk[at] ^= 0x10;
        let compared = manifest.compare(&hashes(&disk, &blocks));
        if blocks.contains(&block) {
            let difference = compared.difference.unwrap();
            assert_eq!((difference.offset, compared.equal), (offset, 9));
            assert_ne!(difference.expected, difference.found);
            assert_eq!(difference.found.len(), 64);
        } else {
            assert_eq!((compared.difference, compared.equal), (None, 10));
        }
        disk[at] = before;
    }
    // What was not read is not equal.
    assert_eq!(manifest.compare(&[]).equal, 0);
}

#[test]
fn every_block_is_as_likely_as_any_other() {
    // Of holes too: places in the population are places on the disk.
    let population = Population::of_ranges(
        1000 * BLOCK_BYTES,
        [
            (0, 10 * BLOCK_BYTES),
            (500 * BLOCK_BYTES, 520 * BLOCK_BYTES),
            (999 * BLOCK_BYTES, u64::MAX),
        ],
    );
    assert_eq!(population.total(), 31);
    let mut times = std::collections::BTreeMap::new();
    for n in 0..3100 {
        for block in sample(&seed(n), None, &population, 5) {
            *times.entry(block).or_insert(0) += 1;
        }
    }
    assert_eq!(times.len(), 31);
    // 500 times each, and a standard deviation of about 20.
    assert!(times.values().all(|times| (380..620).contains(times)), "{times:?}");
}

#[test]
fn what_chooses_the_blocks_never_changes() {
    // Of another program's version: the same seed must choose the same blocks.
    let population = Population::whole(1 << 40);
    let chosen = sample(&seed(7), Some(1), &population, 4);
    assert_eq!(chosen, CHOSEN);
    assert_ne!(sample(&seed(7), None, &population, 4), CHOSEN);
    assert_ne!(sample(&seed(8), Some(1), &population, 4), CHOSEN);
}

const CHOSEN: [u64; 4] = [257_698, 9_613_295, 11_138_942, 15_460_721];

proptest! {
    #[test]
    fn a_sample_is_of_the_population_in_order_and_as_large_as_asked(
        number in any::<u32>(),
        size_blocks in 1..5000u64,
        odd in 0..BLOCK_BYTES,
        ranges in prop::collection::vec((0..5000u64, 0..300u64), 0..20),
        size in 0..400u32,
    ) {
        let size_bytes = (size_blocks - 1) * BLOCK_BYTES + odd + 1;
        let ranges: Vec<_> =
            ranges.into_iter().map(|(start, n)| (start * 4096, start * 4096 + n * 4096)).collect();
        let population = Population::of_ranges(size_bytes, ranges.clone());
        let chosen = sample(&seed(number), Some(1), &population, size);
        prop_assert_eq!(chosen.len() as u64, u64::from(size).min(population.total()));
        prop_assert!(chosen.windows(2).all(|w| w[0] < w[1]));
        for block in &chosen {
            let (offset, length) = place(*block, size_bytes);
            prop_assert!(length > 0 && offset + length <= size_bytes);
            let touches = |(start, end): &(u64, u64)| {
                *start < offset + length && offset < (*end).min(size_bytes) && start < end
            };
            prop_assert!(ranges.iter().any(touches), "block {} holds no data", block);
        }
        // All of it when as much is asked for: every block that a range touches.
        let all = sample(&seed(number), None, &population, u32::MAX);
        for (start, end) in ranges.iter().filter(|(s, e)| s < e && *s < size_bytes) {
            prop_assert!(all.contains(&(start / BLOCK_BYTES)));
            prop_assert!(all.contains(&((end.min(&size_bytes) - 1) / BLOCK_BYTES)));
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_or_not_at_all(
        blocks in prop::collection::btree_set(0..10_000u64, 0..50),
        flip in any::<prop::sample::Index>(),
        bit in 0..8u32,
        cut in any::<prop::sample::Index>(),
    ) {
        let hashes: Vec<_> = blocks.iter().map(|b| (*b, BlockHash::of(&b.to_le_bytes()))).collect();
        let manifest = Manifest::new(10_000 * BLOCK_BYTES, 10_000, hashes).unwrap();
        let mut bytes = manifest.to_bytes();
        prop_assert_eq!(Manifest::from_bytes(&bytes), Ok(manifest.clone()));
        prop_assert!(Manifest::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
        let place = flip.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(Manifest::from_bytes(&bytes).is_err());
    }

    #[test]
    fn more_samples_and_more_changes_are_missed_less_often(
        all in 1..1_000_000u64, sampled in 0..5000u64, changed in 0..5000u64,
    ) {
        let p = missed(all, sampled, changed);
        prop_assert!((0.0..=1.0).contains(&p));
        prop_assert!(missed(all, sampled + 1, changed) <= p);
        prop_assert!(missed(all, sampled, changed + 1) <= p);
        let swapped = missed(all, changed, sampled);
        prop_assert!((p - swapped).abs() <= 1e-9);
    }
}

#[test]
fn blocks_that_are_not_there_make_no_manifest() {
    let hash = BlockHash::of(b"x");
    let size = 3 * BLOCK_BYTES;
    assert!(Manifest::new(size, 3, vec![(0, hash), (2, hash)]).is_ok());
    for blocks in [vec![3], vec![1, 0], vec![1, 1], vec![u64::MAX]] {
        let hashes = blocks.into_iter().map(|b| (b, hash)).collect();
        assert_eq!(Manifest::new(size, 3, hashes), Err(ManifestError::Blocks));
    }
    assert_eq!(Manifest::new(size, 1, vec![(0, hash), (1, hash)]), Err(ManifestError::Blocks));
    let mut later = Manifest::new(size, 3, vec![]).unwrap().to_bytes();
    later[7] = 2;
    assert_eq!(Manifest::from_bytes(&later), Err(ManifestError::Format));
}
