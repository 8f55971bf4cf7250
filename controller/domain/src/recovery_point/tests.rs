use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn at(s: &str) -> WallTime {
    s.parse().unwrap()
}

fn vm(name: &str) -> ArmId {
    ArmId::virtual_machine("sub", "rg", name).unwrap()
}

#[test]
fn names_are_as_documented() {
    let taken_at = at("2025-12-01T08:00:59Z");
    let point = PointName::choose("prod-db-vm", Tier::Daily, taken_at, |_| false);
    assert_eq!(point.as_str(), "prod-db-vm-backup-daily-20251201-0800");
    let second = PointName::choose("prod-db-vm", Tier::Daily, taken_at, |n| n == point.as_str());
    assert_eq!(second.as_str(), "prod-db-vm-backup-daily-20251201-0800-2");
    let both = [point.as_str(), second.as_str()];
    let third = PointName::choose("prod-db-vm", Tier::Daily, taken_at, |n| both.contains(&n));
    assert!(third.as_str().ends_with("-3"));

    let hash = vm("prod-db-vm").short_hash();
    let os = snapshot_name(&point, &vm("prod-db-vm"), None);
    assert_eq!(os.as_str(), format!("prod-db-vm-backup-daily-20251201-0800-{hash}"));
    let data = snapshot_name(&point, &vm("prod-db-vm"), Some(3));
    assert_eq!(data.as_str(), format!("{os}-lun3"));
}

#[test]
fn what_is_not_a_point_name_is_refused() {
    for name in [
        "",
        "-backup-daily-20251201-0800",
        "vm-backup-hourly-20251201-0800",
        "vm-backup-daily-20251201",
        "vm-backup-daily-20251301-0800",
        "vm-backup-daily-20251201-2460",
        "vm-backup-daily-20251201-0800-1",
        "vm-backup-daily-20251201-0800-02",
        "vm-backup-daily-20251201-0800-x",
        "vm-backup-daily-20251201-0800-2-3",
        "vm-backup-Daily-20251201-0800",
        "v/m-backup-daily-20251201-0800",
        "vm-backup-daily-+2512010800",
    ] {
        assert!(PointName::parse(name).is_err(), "{name:?}");
    }
    let tricky = PointName::parse("a-backup-daily-20200101-0000-backup-weekly-20251201-0800-12");
    let tricky = tricky.unwrap();
    assert_eq!(tricky.tier(), Tier::Weekly);
    assert_eq!(tricky.minute(), at("2025-12-01T08:00:00Z"));
}

#[test]
fn long_names_that_begin_alike_stay_apart() {
    let (a, b) = (format!("{}-a", "x".repeat(60)), format!("{}-b", "x".repeat(60)));
    let name =
        |vm: &str| PointName::choose(vm, Tier::Monthly, at("2025-12-01T08:00:00Z"), |_| false);
    assert_ne!(name(&a), name(&b));
    assert_ne!(name("a.b"), name("a-b"));
}

#[test]
fn a_name_of_another_make_still_gives_a_snapshot_name() {
    let long = format!("{}-backup-daily-20251201-0800", "x".repeat(52));
    let other = format!("{}y-backup-daily-20251201-0800", "x".repeat(52));
    let [long, other] = [long, other].map(|name| PointName::parse(&name).unwrap());
    let name = snapshot_name(&long, &vm("x"), Some(u32::MAX));
    assert!(name.as_str().len() <= 80);
    assert_ne!(name, snapshot_name(&other, &vm("x"), Some(u32::MAX)));
}

#[test]
fn proof_levels_are_ordered_and_named() {
    assert!(ProofLevel::ALL.windows(2).all(|w| w[0] < w[1]));
    for level in ProofLevel::ALL {
        assert_eq!(level.to_string().parse::<ProofLevel>().unwrap(), level);
    }
}

fn tiers() -> impl Strategy<Value = Tier> {
    prop::sample::select(Tier::ALL.to_vec())
}

proptest! {
    #[test]
    fn every_chosen_name_reads_back_and_every_snapshot_name_fits(
        name in "[a-zA-Z0-9_.-]{0,63}[a-z]", tier in tiers(), ms in 0..4_000_000_000_000i64,
        number in 0..40u32, lun in prop::option::of(0..64u32),
    ) {
        let when = WallTime::from_unix_ms(ms);
        let calls = std::cell::Cell::new(0);
        let point = PointName::choose(&name, tier, when, |_| {
            calls.set(calls.get() + 1);
            calls.get() <= number
        });
        prop_assert_eq!(&PointName::parse(point.as_str()).unwrap(), &point);
        prop_assert_eq!(point.tier(), tier);
        prop_assert_eq!(point.minute().unix_ms(), ms - ms.rem_euclid(60_000));
        let snapshot = snapshot_name(&point, &vm(&name), lun);
        prop_assert!(snapshot.as_str().len() <= 80);
        // Nothing was cut: the whole point's name is in it.
        prop_assert!(snapshot.as_str().starts_with(point.as_str()));
        // A snapshot's name has no period (AZURE.md A.7).
        prop_assert!(!snapshot.as_str().contains('.'));
    }

    #[test]
    fn names_of_different_vms_tiers_minutes_and_luns_never_collide(
        names in prop::collection::hash_set("[ab]{1,3}|a{30,36}|[ab]{60,64}", 1..12),
    ) {
        let mut seen = HashSet::new();
        for name in &names {
            for tier in Tier::ALL {
                for minute in 0..3 {
                    for lun in [None, Some(0), Some(63)] {
                        let when = WallTime::from_unix_ms(minute * 60_000);
                        let point = PointName::choose(name, tier, when, |_| false);
                        prop_assert!(seen.insert(snapshot_name(&point, &vm(name), lun)));
                    }
                }
            }
        }
    }
}
