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
    let compared = |blocks, sampled| Compared {
        blocks,
        sampled,
        equal: sampled,
        difference: None,
        whole: None,
    };
    let words = |disks: &[Compared]| Worth::of(disks).to_string();
    let all = Some(Whole { span_bytes: LEAST_SPAN, spans: 1, different: 0 });
    let all = [
        Compared { whole: all.clone(), ..compared(5, 5) },
        Compared { whole: all, ..compared(0, 0) },
    ];
    assert_eq!(
        words(&all),
        "all 5 blocks with data equal, and the rest as empty as it was: every byte was compared"
    );
    // One disk of which only blocks were looked at, and nothing is said of the rest.
    let mixed = Worth::of([&all[0], &compared(12, 12)]);
    assert!(!mixed.whole && mixed.missed == 0.0);
    // A disk that holds nothing takes nothing away from what is known of the others.
    assert_eq!(Worth::of(&[compared(0, 0), compared(9, 9)]).missed, 0.0);
    assert_eq!(
        words(&[compared(2_000_000, 300), compared(1000, 1000)]),
        "1300 of 1300 sampled blocks equal, out of 2001000 with data; a change of 1 % of a disk's \
         blocks would be missed with probability 0.049 (1 in 20)"
    );
    assert_eq!(
        words(&[compared(12, 12)]),
        "12 of all 12 blocks with data equal: none was left out"
    );
    for nothing in [&[][..], &[compared(0, 0)], &all[1..]] {
        assert_eq!(words(nothing), "no block held data: nothing was compared");
    }
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

#[test]
fn what_is_asked_for_is_a_number_or_all() {
    for (sampling, text) in [(Sampling::Blocks(300), "300"), (Sampling::All, "\"all\"")] {
        assert_eq!(serde_json::to_string(&sampling).unwrap(), text);
        assert_eq!(serde_json::from_str::<Sampling>(text).unwrap(), sampling);
    }
    for wrong in ["\"most\"", "-1", "4294967296", "1.5", "null"] {
        assert!(serde_json::from_str::<Sampling>(wrong).is_err(), "{wrong}");
    }
}

/// Everything that a disk holds, read in pieces as a disk is.
fn hashed(disk: &[u8], population: &Population, span: u64) -> SpanManifest {
    let mut hasher = SpanHasher::new(disk.len() as u64, span);
    for (first, count) in population.pieces(0, LEAST_SPAN / BLOCK_BYTES) {
        let from = (first * BLOCK_BYTES) as usize;
        let to = (from + (count * BLOCK_BYTES) as usize).min(disk.len());
        hasher.add(first, &disk[from..to]);
    }
    hasher.finish().unwrap()
}

/// Twelve spans, a few blocks of which hold data, and an odd end.
fn sparse_disk() -> (Vec<u8>, Population) {
    let size = 12 * LEAST_SPAN + 3 * BLOCK_BYTES + 100;
    let mut disk = vec![0; size as usize];
    let mut ranges = Vec::new();
    for block in [0, 1, 63, 64, 65, 200, 640, 767, 768, 771] {
        let (offset, length) = place(block, size);
        disk[offset as usize..(offset + length) as usize].fill((block % 251) as u8 + 1);
        ranges.push((offset, offset + length));
    }
    (disk, Population::of_ranges(size, ranges))
}

/// Each block in turn has one bit flipped, whether it held data or not: all of it is found, and where.
#[test]
fn a_flipped_bit_anywhere_on_a_disk_is_always_found_and_its_span_is_named() {
    let (disk, population) = sparse_disk();
    let taken = hashed(&disk, &population, LEAST_SPAN);
    assert_eq!((taken.blocks(), taken.spans()), (10, 6));
    // Read by what the copy says of its own ranges, or all of it.
    let everything = Population::whole(disk.len() as u64);
    let same = taken.compare(&hashed(&disk, &everything, LEAST_SPAN));
    assert_eq!((same.blocks, same.equal, same.difference.clone()), (10, 10, None));
    assert_eq!(same.whole, Some(Whole { span_bytes: LEAST_SPAN, spans: 6, different: 0 }));
    let mut copy = disk.clone();
    for block in 0..everything.total() {
        let (offset, length) = place(block, disk.len() as u64);
        let at = (offset + length - 1) as usize;
        copy[at] ^= 0x10;
        // A copy lists what it holds now.
        let touched = population.pieces(0, 1).chain([(block, 1)]);
        let ranges = touched.map(|(first, n)| (first * BLOCK_BYTES, (first + n) * BLOCK_BYTES));
        let now = hashed(&copy, &Population::of_ranges(disk.len() as u64, ranges), LEAST_SPAN);
        copy[at] ^= 0x10;
        let compared = taken.compare(&now);
        let difference = compared.difference.unwrap();
        assert_eq!(difference.offset, offset / LEAST_SPAN * LEAST_SPAN, "block {block}");
        assert_ne!(difference.expected, difference.found);
        assert_eq!(compared.whole.unwrap().different, 1);
        let held_data = [0, 1, 3, 10, 11, 12].contains(&(offset / LEAST_SPAN));
        assert_eq!(
            (compared.equal < 10, difference.expected == "no data"),
            (held_data, !held_data)
        );
    }
    // Data that is gone, and blocks that changed places.
    copy[(640 * BLOCK_BYTES) as usize..][..BLOCK_BYTES as usize].fill(0);
    let difference = taken.compare(&hashed(&copy, &everything, LEAST_SPAN)).difference.unwrap();
    assert_eq!((difference.offset, &*difference.found), (10 * LEAST_SPAN, "no data"));
    let mut copy = disk.clone();
    let (first, second) = copy.split_at_mut(BLOCK_BYTES as usize);
    first.swap_with_slice(&mut second[..BLOCK_BYTES as usize]);
    assert!(taken.compare(&hashed(&copy, &everything, LEAST_SPAN)).difference.is_some());
    // Spans of another size cannot be compared, and are not called equal.
    let coarse = taken.compare(&hashed(&disk, &everything, 2 * LEAST_SPAN));
    assert_eq!((coarse.equal, coarse.whole.unwrap().different), (0, 8));
}

#[test]
fn hashing_that_was_interrupted_at_any_piece_comes_to_the_same() {
    let (disk, population) = sparse_disk();
    let size = disk.len() as u64;
    let taken = hashed(&disk, &population, LEAST_SPAN);
    let per_piece = LEAST_SPAN / BLOCK_BYTES;
    let pieces = population.pieces(0, per_piece).count();
    assert!(pieces > 6);
    let add = |hasher: &mut SpanHasher, (first, count): (u64, u64)| {
        let from = (first * BLOCK_BYTES) as usize;
        hasher.add(first, &disk[from..(from + (count * BLOCK_BYTES) as usize).min(disk.len())]);
    };
    for stop in 0..=pieces {
        let mut hasher = SpanHasher::new(size, LEAST_SPAN);
        population.pieces(0, per_piece).take(stop).for_each(|piece| add(&mut hasher, piece));
        let kept = serde_json::to_string(&hasher.so_far().unwrap()).unwrap();
        let mut resumed = SpanHasher::resume(serde_json::from_str(&kept).unwrap(), hasher.next());
        population.pieces(hasher.next(), per_piece).for_each(|piece| add(&mut resumed, piece));
        assert_eq!(resumed.finish().unwrap(), taken, "stopped after {stop} pieces");
    }
}

/// What is kept of a disk of any size that Azure has is bounded, and a span's number fits.
#[test]
fn the_hashes_of_the_largest_disk_are_below_700_kb() {
    const GIB: u64 = 1 << 30;
    for (size, span) in [
        (1, LEAST_SPAN),
        (64 * GIB, LEAST_SPAN),
        (64 * GIB + 1, 2 * LEAST_SPAN),
        (1024 * GIB, 64 << 20),
        (32 * 1024 * GIB, 2 * GIB),
        (64 * 1024 * GIB, 4 * GIB),
    ] {
        assert_eq!(span_bytes(size), span, "{size}");
        assert!(size.div_ceil(span) <= MOST_SPANS);
    }
    let size = 32 * 1024 * GIB;
    let mut hasher = SpanHasher::new(size, span_bytes(size));
    for number in 0..MOST_SPANS {
        hasher.add(number * span_bytes(size) / BLOCK_BYTES, b"x");
    }
    let full = hasher.finish().unwrap();
    assert_eq!(full.spans(), MOST_SPANS);
    assert!(full.to_bytes().len() < 700_000);
}

#[test]
fn what_a_span_hashes_to_never_changes() {
    // Of another program's version: hashes that are kept must go on being comparable.
    let (disk, population) = sparse_disk();
    let root = BlockHash::of(&hashed(&disk, &population, LEAST_SPAN).to_bytes());
    assert_eq!(root.to_string(), SPANS);
}

const SPANS: &str = "07e24390827463d342d284a18bd5d6f3529f134255e880c6b5e69cd583f74d8d";

proptest! {
    #[test]
    fn pieces_are_the_population_in_order_and_cross_no_boundary(
        ranges in prop::collection::vec((0..5000u64, 1..300u64), 0..20),
        from in 0..6000u64,
        most in 1..100u64,
    ) {
        let ranges = ranges.into_iter().map(|(first, n)| (first * BLOCK_BYTES, (first + n) * BLOCK_BYTES));
        let population = Population::of_ranges(5200 * BLOCK_BYTES, ranges);
        let all = sample(&seed(1), None, &population, u32::MAX);
        let wanted: Vec<u64> = all.into_iter().filter(|block| *block >= from).collect();
        let pieces: Vec<_> = population.pieces(from, most).collect();
        for (first, count) in &pieces {
            prop_assert!(*count > 0 && first / most == (first + count - 1) / most);
        }
        let listed: Vec<u64> = pieces.into_iter().flat_map(|(first, n)| first..first + n).collect();
        prop_assert_eq!(listed, wanted);
    }

    #[test]
    fn hashes_of_spans_are_read_as_they_were_written_or_not_at_all(
        blocks in prop::collection::btree_set(0..100_000u64, 0..50),
        flip in any::<prop::sample::Index>(),
        bit in 0..8u32,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut hasher = SpanHasher::new(100_000 * BLOCK_BYTES, LEAST_SPAN);
        blocks.iter().for_each(|block| hasher.add(*block, b"data"));
        let manifest = hasher.finish().unwrap();
        prop_assert_eq!(manifest.blocks(), blocks.len() as u64);
        let text = serde_json::to_string(&manifest).unwrap();
        prop_assert_eq!(&serde_json::from_str::<SpanManifest>(&text).unwrap(), &manifest);
        let mut bytes = manifest.to_bytes();
        prop_assert_eq!(Hashes::from_bytes(&bytes), Ok(Hashes::All(manifest)));
        prop_assert!(Hashes::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
        let place = flip.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(Hashes::from_bytes(&bytes).is_err());
    }
}

#[test]
fn spans_that_are_not_there_make_no_manifest() {
    let size = 3 * LEAST_SPAN;
    let of = |blocks: &[u64]| {
        let mut hasher = SpanHasher::new(size, LEAST_SPAN);
        blocks.iter().for_each(|block| hasher.add(*block, b"data"));
        hasher.finish()
    };
    let per_span = LEAST_SPAN / BLOCK_BYTES;
    assert!(of(&[0, per_span, 3 * per_span - 1]).is_ok());
    for blocks in [vec![3 * per_span], vec![per_span, 0], vec![0, per_span, 0]] {
        assert_eq!(of(&blocks), Err(ManifestError::Blocks), "{blocks:?}");
    }
    for text in ["", "0", "zz", "\u{e9}"] {
        let text = serde_json::to_string(text).unwrap();
        assert!(serde_json::from_str::<SpanManifest>(&text).is_err());
    }
}
