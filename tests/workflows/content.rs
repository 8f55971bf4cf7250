//! What was hashed when a backup was taken is compared with its copies.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use azdr_controller::store::{ContentRow, Item, RunRow, RunState};
use azdr_controller::workflows::{WHOLE_DISKS_AT_ONCE, backup, hash_content};
use azdr_domain::alert::AlertKind;
use azdr_domain::content::{BLOCK_BYTES, Compared, Hashes, Sampling, missed};
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::{PointName, ProofLevel};
use serde_json::Value;

use crate::cases::{
    back_up, copied, hash, hash_all, take, verify_content, with_data, with_data_apart, with_images,
    write_blocks,
};
use crate::life::{Bench, Life};

const AWAY: &str = "westus2";

/// A point of disks with data, hashed and copied.
async fn hashed_and_copied(bench: &Bench) -> (Life, Item, PointName) {
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    let id = life.engine.submit(hash(&item, point.clone())).await.unwrap();
    assert_eq!(life.ended(id).await.state, RunState::Succeeded);
    copied(&life, &item, point.clone()).await;
    (life, item, point)
}

async fn verified(life: &Life, item: &Item, point: &PointName, region: &str) -> RunRow {
    let run = verify_content(item, point.clone(), region);
    let id = life.engine.submit(run).await.unwrap();
    life.ended(id).await
}

/// The file of the copy of a disk: of its own, no longer shared with what it is a copy of.
async fn own_bytes(
    bench: &Bench,
    life: &Life,
    item: &Item,
    lun: Option<u32>,
) -> std::path::PathBuf {
    let path = bytes_of_copy(bench, life, item, lun).await;
    let apart = path.with_extension("apart");
    std::fs::copy(&path, &apart).unwrap();
    std::fs::rename(&apart, &path).unwrap();
    path
}

async fn bytes_of_copy(
    bench: &Bench,
    life: &Life,
    item: &Item,
    lun: Option<u32>,
) -> std::path::PathBuf {
    let points = life.points(item).await;
    let copy = points[0].snapshots_in(AWAY).into_iter().find(|s| s.lun == lun).unwrap().id.clone();
    let unique = life.services.azure.get_snapshot(&copy).await.unwrap().unique_id.unwrap();
    bench.cloud.bytes_of(&unique)
}

fn flip(file: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

async fn open_to_be_read(bench: &Bench) -> usize {
    let listing = bench.cloud.listing().await;
    let all = listing["resources"].as_array().unwrap();
    all.iter().filter(|r| !r["access_until"].is_null()).count()
}

#[tokio::test(start_paused = true)]
async fn equal_content_is_proved_of_every_copy_with_what_it_is_worth() {
    let bench = with_data();
    let (life, item, point) = hashed_and_copied(&bench).await;
    for region in ["eastus", AWAY] {
        let row = verified(&life, &item, &point, region).await;
        assert_eq!(row.state, RunState::Succeeded, "{region}: {row:?}");
        let result = &row.result.unwrap()["verify"];
        let content = &result["content"];
        // Two of five blocks, and both of two.
        assert_eq!([&content["blocks"], &content["sampled"], &content["equal"]], [7, 4, 4]);
        let stated = content["missed_probability"].as_f64().unwrap();
        assert!((stated - missed(5, 2, 1)).abs() < 1e-12, "{stated}");
        assert!(content["words"].as_str().unwrap().contains("0.60"), "{content}");
        for disk in result["disks"].as_array().unwrap() {
            let compared: Compared = serde_json::from_value(disk["content"].clone()).unwrap();
            assert_eq!((compared.sampled, compared.difference), (2, None), "{disk}");
        }
        assert_eq!(life.points(&item).await[0].proof().0, ProofLevel::Content);
    }
    let proofs = life.points(&item).await.remove(0).proofs;
    assert!(proofs.iter().all(|p| p.detail.starts_with("4 of 4 sampled blocks equal")));
    assert_eq!(open_to_be_read(&bench).await, 0);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_in_a_copy_is_found_named_and_alerted_and_the_original_stays_proved() {
    let bench = with_data();
    let (life, item, point) = hashed_and_copied(&bench).await;
    // Both blocks with data of this disk are sampled.
    let copy = own_bytes(&bench, &life, &item, Some(3)).await;
    flip(&copy, 3 * BLOCK_BYTES + 17);
    let row = verified(&life, &item, &point, AWAY).await;
    assert_eq!(row.state, RunState::Failed);
    let error = row.error.unwrap();
    assert_eq!(error["kind"], "content_differs");
    let message = error["message"].as_str().unwrap();
    let begins = "1 of 2 sampled blocks of the disk at LUN 3 differ";
    assert!(message.starts_with(begins), "{message}");
    let wrong = vec![7; BLOCK_BYTES as usize];
    let expected = azdr_domain::content::BlockHash::of(&wrong);
    let offset = 3 * BLOCK_BYTES;
    assert!(
        message.contains(&format!("at byte {offset}: expected BLAKE3 {expected}")),
        "{message}"
    );
    let points = life.points(&item).await;
    let proof = points[0].proofs.last().unwrap();
    assert_eq!((proof.level, proof.passed, &*proof.detail), (ProofLevel::Content, false, message));
    assert_eq!(points[0].proof().0, ProofLevel::Unproved);
    let filter = azdr_controller::store::AlertFilter { limit: 10, ..Default::default() };
    let (alerts, _) = life.store.alerts(filter).await.unwrap();
    let kinds: Vec<_> = alerts.iter().map(|a| AlertKind::parse(&a.kind)).collect();
    assert_eq!(kinds, [Some(AlertKind::VerificationFailed)]);
    assert_eq!(open_to_be_read(&bench).await, 0);
    let original = verified(&life, &item, &point, "eastus").await;
    assert_eq!(original.state, RunState::Succeeded);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_found_in_as_many_points_as_is_stated() {
    // Two of five blocks of the OS disk are looked at: over 60 points whose seeds differ, a change of one
    // of the five must be found in 24, give or take five standard deviations.
    let bench = with_data();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    copied(&life, &item, point.clone()).await;
    let copy = own_bytes(&bench, &life, &item, None).await;
    flip(&copy, 4 * BLOCK_BYTES + BLOCK_BYTES - 1);
    let mut found = 0;
    const TIMES: i32 = 60;
    for _ in 0..TIMES {
        life.store.write(|c| Ok(c.execute("DELETE FROM content", []).map(drop)?)).await.unwrap();
        let id = life.engine.submit(hash(&item, point.clone())).await.unwrap();
        assert_eq!(life.ended(id).await.state, RunState::Succeeded);
        let row = verified(&life, &item, &point, AWAY).await;
        match row.state {
            RunState::Succeeded => {}
            RunState::Failed => {
                assert_eq!(row.error.unwrap()["kind"], "content_differs");
                found += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    let stated = 1.0 - missed(5, 2, 1);
    let (expected, times) = (stated * f64::from(TIMES), f64::from(TIMES));
    let bound = 5.0 * (times * stated * (1.0 - stated)).sqrt();
    assert!((f64::from(found) - expected).abs() < bound, "{found} instead of {expected}");
    assert!(found > 0 && found < TIMES);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_hashes_of_all_disks_content_cannot_be_verified_and_nothing_is_recorded() {
    let bench = with_data();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    let refused = async |life: &Life| {
        let row = verified(life, &item, &point, "eastus").await;
        assert_eq!(row.state, RunState::Failed);
        let error = row.error.unwrap();
        assert_eq!(error["kind"], "no_content_hashes");
        assert!(life.points(&item).await[0].proofs.is_empty(), "it says nothing about the point");
        error["message"].as_str().unwrap().to_owned()
    };
    assert!(refused(&life).await.starts_with("no content hashes were taken of all disks"));
    let id = life.engine.submit(hash(&item, point.clone())).await.unwrap();
    life.ended(id).await;
    let sql = |sql: &'static str| life.store.write(move |c| Ok(c.execute(sql, []).map(drop)?));
    sql("UPDATE content SET manifest = substr(manifest, 1, 50) WHERE lun = 3").await.unwrap();
    assert!(refused(&life).await.contains("damaged"));
    sql("DELETE FROM content WHERE lun = 3").await.unwrap();
    assert!(refused(&life).await.starts_with("no content hashes were taken of all disks"));
    life.end().await;
}

/// An empty list of pages is equal to any other: of an OS disk, or of everything, it is no proof.
#[tokio::test(start_paused = true)]
async fn where_nothing_was_hashed_nothing_is_proved() {
    let (os, data) = ([(0, 1)], [(2, 6)]);
    for (bench, of) in [
        (with_images((8, &[]), (4, &[])), Some("any of its disks")),
        (with_images((8, &[]), (4, &data)), Some("its OS disk")),
        (with_images((8, &os), (4, &[])), None),
    ] {
        let life = bench.life().await;
        let item = bench.protect(&life, PolicyChange::default()).await;
        for hashing in [hash, hash_all] {
            let point = take(&life, &item).await;
            let id = life.engine.submit(hashing(&item, point.clone())).await.unwrap();
            assert_eq!(life.ended(id).await.state, RunState::Succeeded);
            let row = verified(&life, &item, &point, "eastus").await;
            let points = life.points(&item).await;
            let proof = points.iter().find(|p| p.name == point).unwrap().proof().0;
            let Some(of) = of else {
                assert_eq!((row.state, proof), (RunState::Succeeded, ProofLevel::Content));
                tokio::time::advance(Duration::from_secs(86_400)).await;
                continue;
            };
            assert_eq!((row.state, proof), (RunState::Failed, ProofLevel::Unproved));
            let error = row.error.unwrap();
            assert_eq!(error["kind"], "no_content_hashes");
            let words = format!("Azure listed no data on {of}");
            assert!(error["message"].as_str().unwrap().contains(&words), "{error}");
            assert!(points.iter().all(|p| p.proofs.is_empty()), "it says nothing about the point");
            tokio::time::advance(Duration::from_secs(86_400)).await;
        }
        life.end().await;
    }
}

/// Hashes are of what the snapshots hold, never of the disks, and only of what was just taken.
#[tokio::test(start_paused = true)]
async fn a_backup_starts_the_hashing_and_hashes_are_taken_once() {
    let mut bench = with_data();
    bench.sampled_blocks = Sampling::Blocks(100);
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    bench.cloud.count_from_here(None);
    let id = life.engine.submit(back_up(&item)).await.unwrap();
    assert_eq!(life.ended(id).await.state, RunState::Succeeded);
    life.settle().await;
    let writes = bench.cloud.writes();
    let read = writes.keys().filter(|w| w.to_lowercase().ends_with("/begingetaccess"));
    let of: Vec<bool> = read.map(|w| w.to_lowercase().contains("/snapshots/")).collect();
    assert_eq!(of, [true, true], "{writes:?}");
    let point = life.points(&item).await.remove(0).name;
    let hashed = life.store.content(item.id, point.clone()).await.unwrap();
    let blocks = |row: &ContentRow| match row.hashes.clone().unwrap() {
        Hashes::Sample(manifest) => manifest.blocks(),
        Hashes::All(_) => panic!("a sample was asked for"),
    };
    let taken: Vec<_> = hashed.iter().map(|row| (row.lun, blocks(row))).collect();
    // All that holds data, and nothing else.
    assert_eq!(taken, [(None, vec![0, 1, 4, 5, 6]), (Some(3), vec![2, 3])]);
    let (newest, _) = life.store.latest_run(item.id, hash_content::RUN.0).await.unwrap().unwrap();
    let backup = life.store.latest_run(item.id, backup::RUN.0).await.unwrap().unwrap().0;
    assert!(newest > backup);
    assert_eq!(open_to_be_read(&bench).await, 0);
    // A second time changes nothing: hashes of later say nothing about the capture.
    bench.cloud.count_from_here(None);
    let again = life.engine.submit(hash(&item, point.clone())).await.unwrap();
    assert_eq!(life.ended(again).await.state, RunState::Succeeded);
    assert_eq!(bench.cloud.requests(), 0);
    let same = life.store.content(item.id, point.clone()).await.unwrap();
    assert!(same.iter().all(|row| row.run == newest), "{same:?}");
    let row = verified(&life, &item, &point, "eastus").await;
    let content: &Value = &row.result.unwrap()["verify"]["content"];
    assert_eq!(content["words"], "7 of all 7 blocks with data equal: none was left out");
    life.end().await;
}

/// A point of which everything was hashed by the backup's own job, and its copy.
async fn all_hashed_and_copied(bench: &Bench) -> (Life, Item, PointName) {
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let id = life.engine.submit(back_up(&item)).await.unwrap();
    assert_eq!(life.ended(id).await.state, RunState::Succeeded);
    life.settle().await;
    let point = life.points(&item).await.remove(0).name;
    let (run, _) = life.store.latest_run(item.id, hash_content::RUN.0).await.unwrap().unwrap();
    assert_eq!(life.ended(run).await.state, RunState::Succeeded);
    copied(&life, &item, point.clone()).await;
    (life, item, point)
}

fn hashed_whole() -> Bench {
    let mut bench = with_data_apart();
    bench.sampled_blocks = Sampling::All;
    bench
}

#[tokio::test(start_paused = true)]
async fn where_everything_was_hashed_one_flipped_bit_is_always_found_and_its_span_named() {
    let bench = hashed_whole();
    let (life, item, point) = all_hashed_and_copied(&bench).await;
    for region in ["eastus", AWAY] {
        let row = verified(&life, &item, &point, region).await;
        assert_eq!(row.state, RunState::Succeeded, "{region}: {row:?}");
        let content = &row.result.unwrap()["verify"]["content"];
        assert_eq!([&content["blocks"], &content["sampled"], &content["equal"]], [5, 5, 5]);
        assert_eq!(
            (&content["whole"], content["missed_probability"].as_f64()),
            (&Value::Bool(true), Some(0.0))
        );
        let words = "all 5 blocks with data equal, and the rest as empty as it was: every byte was compared";
        assert_eq!(content["words"], words);
        assert_eq!(life.points(&item).await[0].proof().0, ProofLevel::Content);
    }
    let (os, data) = (
        own_bytes(&bench, &life, &item, None).await,
        own_bytes(&bench, &life, &item, Some(3)).await,
    );
    // First and last byte of blocks with data, of blocks without, of spans, and of the disks.
    let cases = [
        (&os, "OS disk", 0, 0),
        (&os, "OS disk", 64 * BLOCK_BYTES - 1, 0),
        (&os, "OS disk", 7 * BLOCK_BYTES, 0),
        (&os, "OS disk", 64 * BLOCK_BYTES, 64),
        (&os, "OS disk", 100 * BLOCK_BYTES + 5, 64),
        (&os, "OS disk", 131 * BLOCK_BYTES - 1, 128),
        (&data, "disk at LUN 3", 66 * BLOCK_BYTES + 77, 64),
        (&data, "disk at LUN 3", 0, 0),
        (&data, "disk at LUN 3", 70 * BLOCK_BYTES - 1, 64),
    ];
    for (copy, disk, offset, span) in cases {
        flip(copy, offset);
        let row = verified(&life, &item, &point, AWAY).await;
        assert_eq!(row.state, RunState::Failed, "byte {offset} of the {disk}");
        let error = row.error.unwrap();
        assert_eq!(error["kind"], "content_differs");
        let message = error["message"].as_str().unwrap();
        let begins = "1 of ";
        let names = format!("spans with data of the {disk} differ");
        let span = format!("the first is the 4 MiB from byte {} on: expected ", span * BLOCK_BYTES);
        for words in [begins, &names, &span, "BLAKE3 "] {
            assert!(message.contains(words), "byte {offset} of the {disk}: {message}");
        }
        flip(copy, offset);
    }
    // A span that held nothing: what it holds now is told as well.
    flip(&data, 0);
    let error = verified(&life, &item, &point, AWAY).await.error.unwrap();
    assert!(
        error["message"].as_str().unwrap().contains("expected no data, found BLAKE3 "),
        "{error}"
    );
    flip(&data, 0);
    assert_eq!(verified(&life, &item, &point, AWAY).await.state, RunState::Succeeded);
    assert_eq!(open_to_be_read(&bench).await, 0);
    life.end().await;
}

/// A terabyte with a few blocks of data: what is read is what there is, in bounded pieces, and what is kept
/// is bounded too.
#[tokio::test(start_paused = true)]
async fn a_large_sparse_disk_is_hashed_in_bounded_pieces_and_its_hashes_are_small() {
    const BLOCKS: u64 = (1 << 40) / BLOCK_BYTES;
    // Together in two spans of 64 MiB, and the last block.
    let mut filled: Vec<(u64, u8)> = (0..300).map(|n| (1_000_000 + n, 1 + n as u8 % 200)).collect();
    filled.extend([(0, 9), (BLOCKS - 1, 10)]);
    let mut bench = with_images((BLOCKS, &filled), (4, &[(3, 7)]));
    bench.sampled_blocks = Sampling::All;
    bench.cloud.count_from_here(None);
    bench.cloud.read_takes.store(1, Ordering::SeqCst);
    let (life, item, point) = all_hashed_and_copied(&bench).await;
    let reads = bench.cloud.reads();
    // 300 blocks are in 5 pieces of 64.
    assert_eq!(reads.count, 1 + 5 + 1 + 1, "{reads:?}");
    assert_eq!((reads.at_once, reads.largest), (4, 4 << 20), "{reads:?}");
    let sizes = life.store.read(|c| {
        let mut s = c.prepare("SELECT length(manifest) FROM content ORDER BY lun")?;
        let sizes = s.query_map([], |r| r.get::<_, i64>(0))?;
        Ok(sizes.collect::<Result<Vec<_>, _>>()?)
    });
    let sizes = sizes.await.unwrap();
    assert!(sizes.iter().all(|size| *size < 300), "{sizes:?}");
    let row = verified(&life, &item, &point, AWAY).await;
    let content = &row.result.unwrap()["verify"]["content"];
    assert_eq!(
        content["words"].as_str().unwrap().split(',').next(),
        Some("all 303 blocks with data equal")
    );
    // A file of its own, written block by block: the system's copy of a terabyte would fill the holes.
    let copy = bytes_of_copy(&bench, &life, &item, None).await;
    let apart = copy.with_extension("apart");
    write_blocks(&apart, BLOCKS, &filled);
    std::fs::rename(&apart, &copy).unwrap();
    assert_eq!(verified(&life, &item, &point, AWAY).await.state, RunState::Succeeded);
    flip(&copy, (1 << 40) - 1);
    let error = verified(&life, &item, &point, AWAY).await.error.unwrap();
    let span = (1_u64 << 40) - (64 << 20);
    let words = format!("the first is the 64 MiB from byte {span} on");
    assert!(error["message"].as_str().unwrap().contains(&words), "{error}");
    life.end().await;
}

/// Reads that take so long that every call has time for one span.
fn slow(bench: &Bench) {
    bench.cloud.read_takes.store(15, Ordering::SeqCst);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_no_more_is_read_again_than_one_call_had_read() {
    // 40 spans; each call has time for few.
    let filled: Vec<(u64, u8)> = (0..40).map(|n| (n * 64, 1 + n as u8)).collect();
    let bench = with_images((40 * 64, &filled), (4, &[(3, 7)]));
    let mut life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    slow(&bench);
    bench.cloud.count_from_here(None);
    let id = life.engine.submit(hash_all(&item, point.clone())).await.unwrap();
    let mut lives = 0;
    let row = loop {
        tokio::select! {
            row = life.ended(id) => break row,
            () = azdr_env::sleep(Duration::from_secs(50)) => {}
        }
        lives += 1;
        life = bench.next(life).await;
    };
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    // Had it begun anew each time, it would never have ended.
    assert!(lives >= 2, "{lives}");
    let reads = bench.cloud.reads().count;
    // A call reads 8 pieces at most: two rounds of four.
    assert!(reads <= 41 + 8 * (lives + 41 / 4), "{reads} in {lives} lives");
    let hashed = life.store.content(item.id, point.clone()).await.unwrap();
    let blocks: Vec<_> = hashed.into_iter().map(|row| row.hashes.unwrap().blocks()).collect();
    assert_eq!(blocks, [40, 1]);
    // What it could have resumed from is not kept.
    let journal = life.store.journal(id).await.unwrap();
    let large = journal.iter().map(|e| e.payload.to_string().len()).max();
    assert!(large < Some(2000), "{large:?}");
    bench.cloud.read_takes.store(0, Ordering::SeqCst);
    assert_eq!(verified(&life, &item, &point, "eastus").await.state, RunState::Succeeded);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_to_stop_is_heard_while_a_disk_is_being_read() {
    let bench = with_data_apart();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    slow(&bench);
    let id = life.engine.submit(hash_all(&item, point.clone())).await.unwrap();
    azdr_env::sleep(Duration::from_secs(10)).await;
    assert_eq!(open_to_be_read(&bench).await, 1);
    life.engine.cancel(id, "somebody").await.unwrap();
    let begun = bench.env.clock.monotonic();
    assert_eq!(life.ended(id).await.state, RunState::Cancelled);
    let took = bench.env.clock.monotonic().since(begun);
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(open_to_be_read(&bench).await, 0);
    assert!(life.store.content(item.id, point).await.unwrap().is_empty());
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn access_that_ends_while_a_disk_is_being_read_is_asked_for_again() {
    let filled: Vec<(u64, u8)> = (0..12).map(|n| (n * 64, 1 + n as u8)).collect();
    let bench = with_images((12 * 64, &filled), (4, &[(3, 7)]));
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    slow(&bench);
    let id = life.engine.submit(hash_all(&item, point.clone())).await.unwrap();
    let snapshot = life.points(&item).await[0].snapshots_in("eastus")[0].id.clone();
    let azure = bench.azure_of_its_own();
    for _ in 0..2 {
        azdr_env::sleep(Duration::from_secs(20)).await;
        assert_eq!(open_to_be_read(&bench).await, 1);
        azure.begin_revoke_access(&snapshot).await.unwrap();
    }
    let row = life.ended(id).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    let grants = bench.cloud.writes();
    let of = format!("POST {}/beginGetAccess", snapshot.as_str());
    let granted = grants.iter().find(|(w, _)| w.eq_ignore_ascii_case(&of)).map(|(_, times)| *times);
    assert!(granted > Some(2), "{grants:?}");
    let hashed = life.store.content(item.id, point).await.unwrap();
    let blocks: Vec<_> = hashed.into_iter().map(|row| row.hashes.unwrap().blocks()).collect();
    assert_eq!(blocks, [12, 1]);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_waits_for_its_turn_without_a_grant_and_can_be_stopped_meanwhile() {
    let bench = with_data_apart();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    let services = life.services.clone();
    let all = services.whole_disks.try_acquire_many(WHOLE_DISKS_AT_ONCE as u32).unwrap();
    let id = life.engine.submit(hash_all(&item, point.clone())).await.unwrap();
    // Of the same place among those that hash everything: it is not even begun.
    let second = life.engine.submit(hash_all(&item, point.clone())).await.unwrap();
    azdr_env::sleep(Duration::from_secs(3600)).await;
    let progress = life.engine.progress(id);
    let waits = progress.values().any(|p| p.detail == "waiting: 8 disks are being read");
    assert!(waits, "{progress:?}");
    assert_eq!(open_to_be_read(&bench).await, 0);
    assert_eq!(life.store.run(second).await.unwrap().unwrap().state, RunState::Queued);
    life.engine.cancel(id, "somebody").await.unwrap();
    assert_eq!(life.ended(id).await.state, RunState::Cancelled);
    drop(all);
    assert_eq!(life.ended(second).await.state, RunState::Succeeded);
    assert_eq!(life.store.content(item.id, point).await.unwrap().len(), 2);
    life.end().await;
}
