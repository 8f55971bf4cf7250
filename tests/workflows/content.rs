//! What was hashed when a backup was taken is compared with its copies.

use std::os::unix::fs::FileExt;
use std::path::Path;

use azdr_controller::store::{Item, RunRow, RunState};
use azdr_controller::workflows::{backup, hash_content};
use azdr_domain::alert::AlertKind;
use azdr_domain::content::{BLOCK_BYTES, Compared, missed};
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::{PointName, ProofLevel};
use serde_json::Value;

use crate::cases::{back_up, copied, hash, take, verify_content, with_data};
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
    let points = life.points(item).await;
    let copy = points[0].snapshots_in(AWAY).into_iter().find(|s| s.lun == lun).unwrap().id.clone();
    let unique = life.services.azure.get_snapshot(&copy).await.unwrap().unique_id.unwrap();
    let path = bench.cloud.bytes_of(&unique);
    let apart = path.with_extension("apart");
    std::fs::copy(&path, &apart).unwrap();
    std::fs::rename(&apart, &path).unwrap();
    path
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

/// Hashes are of what the snapshots hold, never of the disks, and only of what was just taken.
#[tokio::test(start_paused = true)]
async fn a_backup_starts_the_hashing_and_hashes_are_taken_once() {
    let mut bench = with_data();
    bench.sampled_blocks = 100;
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
    let taken: Vec<_> =
        hashed.iter().map(|row| (row.lun, row.manifest.clone().unwrap().blocks())).collect();
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
