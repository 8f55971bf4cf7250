use super::*;

fn eastus() -> Region {
    Region::parse("eastus").unwrap()
}

fn error(change: PolicyChange) -> String {
    Policy::default().apply(&change, &eastus()).unwrap_err().to_string()
}

#[test]
fn a_new_policy_keeps_seven_daily_points_at_two_in_the_morning_utc() {
    let policy = Policy::default().apply(&PolicyChange::default(), &eastus()).unwrap();
    assert_eq!(policy.retention, Retention { daily: 7, weekly: 0, monthly: 0, yearly: 0 });
    assert_eq!(policy.schedule.time.to_string(), "02:00");
    assert_eq!(policy.schedule.time_zone.as_str(), "UTC");
    assert!(policy.enabled);
}

#[test]
fn what_is_not_given_keeps_its_value() {
    let first = PolicyChange {
        weekly: Some(4),
        target_region: Some("West US 2".to_owned()),
        time_zone: Some("europe/berlin".to_owned()),
        ..Default::default()
    };
    let policy = Policy::default().apply(&first, &eastus()).unwrap();
    assert_eq!(policy.schedule.time_zone.as_str(), "Europe/Berlin");
    let second = PolicyChange { daily: Some(0), ..Default::default() };
    let policy = policy.apply(&second, &eastus()).unwrap();
    assert_eq!(policy.retention.tiers(), TierSet::only(Tier::Weekly));
    assert_eq!(policy.target_region, Some(Region::parse("westus2").unwrap()));
    let off = PolicyChange { cross_region: Some(false), ..Default::default() };
    assert_eq!(policy.apply(&off, &eastus()).unwrap().target_region, None);
    let on = PolicyChange { cross_region: Some(true), ..Default::default() };
    assert_eq!(policy.apply(&on, &eastus()).unwrap().target_region, policy.target_region);
}

#[test]
fn every_limit_names_field_value_and_what_is_allowed() {
    for (change, words) in [
        (
            PolicyChange { daily: Some(3651), ..Default::default() },
            ["daily_retention", "3651", "0 to 3650"],
        ),
        (
            PolicyChange { weekly: Some(521), ..Default::default() },
            ["weekly_retention", "521", "520"],
        ),
        (
            PolicyChange { monthly: Some(241), ..Default::default() },
            ["monthly_retention", "241", "240"],
        ),
        (
            PolicyChange { yearly: Some(101), ..Default::default() },
            ["yearly_retention", "101", "100"],
        ),
        (
            PolicyChange { daily: Some(0), ..Default::default() },
            ["retention", "0 for every tier", "at least one"],
        ),
        (
            PolicyChange { cross_region: Some(true), ..Default::default() },
            ["cross_region", "true", "target_region"],
        ),
        (
            PolicyChange { target_region: Some("East US".to_owned()), ..Default::default() },
            ["target_region", "eastus", "differ"],
        ),
        (
            PolicyChange { target_region: Some("a/b".to_owned()), ..Default::default() },
            ["target_region", "a/b", "westus2"],
        ),
        (
            PolicyChange {
                cross_region: Some(false),
                target_region: Some("westus2".to_owned()),
                ..Default::default()
            },
            ["target_region", "westus2", "cross_region"],
        ),
        (
            PolicyChange { schedule_time: Some("24:00".to_owned()), ..Default::default() },
            ["schedule_time", "24:00", "23:59"],
        ),
        (
            PolicyChange { schedule_time: Some("2:00".to_owned()), ..Default::default() },
            ["schedule_time", "2:00", "23:59"],
        ),
        (
            PolicyChange { time_zone: Some("Mars/Olympus".to_owned()), ..Default::default() },
            ["time_zone", "Mars/Olympus", "IANA"],
        ),
    ] {
        let message = error(change);
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }
}

#[test]
fn a_policy_survives_json_and_a_broken_one_does_not_get_in() {
    let json = serde_json::to_string(&Policy::default()).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), Policy::default());
    assert!(serde_json::from_str::<Policy>(&json.replace("UTC", "Mars/Olympus")).is_err());
    assert!(serde_json::from_str::<Policy>(&json.replace("02:00", "25:00")).is_err());
}

#[test]
fn objectives_and_proofs_have_limits_and_can_be_taken_back() {
    let hour = 3600;
    let change = PolicyChange {
        rpo_secs: Some(36 * hour),
        rto_secs: Some(900),
        verify_every_secs: Some(hour),
        drill_every_secs: Some(366 * 24 * hour),
        ..Default::default()
    };
    let policy = Policy::default().apply(&change, &eastus()).unwrap();
    assert_eq!(policy.rpo.unwrap().to_string(), "36h");
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
    // What was stored before there were any still reads.
    let old = serde_json::to_string(&Policy::default()).unwrap();
    assert!(!old.contains("rpo") && !old.contains("verify_every"), "{old}");
    let off = PolicyChange { rpo_secs: Some(0), verify_every_secs: Some(0), ..Default::default() };
    let policy = policy.apply(&off, &eastus()).unwrap();
    assert_eq!((policy.rpo, policy.verify_every), (None, None));
    assert!(policy.rto.is_some() && policy.drill_every.is_some());
    for (change, words) in [
        (
            PolicyChange { rpo_secs: Some(299), ..Default::default() },
            "rpo cannot be \"299s\": it must be 5m to 366d, or none",
        ),
        (
            PolicyChange { rto_secs: Some(604_801), ..Default::default() },
            "it must be 1m to 7d, or none",
        ),
        (
            PolicyChange { verify_every_secs: Some(60), ..Default::default() },
            "verify_every cannot be \"1m\": it must be 1h to 366d",
        ),
        (
            PolicyChange { drill_every_secs: Some(u32::MAX), ..Default::default() },
            "drill_every cannot be",
        ),
    ] {
        let message = error(change);
        assert!(message.contains(words), "{message}");
    }
}

mod parsing {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_time_of_day_reads_back_in_both_ways_of_writing_it(hour in 0..24u8, minute in 0..60u8) {
            let text = format!("{hour:02}:{minute:02}");
            let time: TimeOfDay = text.parse().unwrap();
            prop_assert_eq!(time.to_string(), text.clone());
            prop_assert_eq!(format!("daily {text}").parse::<TimeOfDay>().unwrap(), time);
        }

        /// Whatever is read as a schedule is one, and is written as it was read.
        #[test]
        fn no_schedule_is_too_strange_to_read(
            text in "\\PC{0,20}|(daily |weekly )?[0-9]{0,3}:[0-9]{0,3}|(daily ){0,3}[0-2][0-9]:[0-5][0-9]",
        ) {
            match text.parse::<TimeOfDay>() {
                Ok(time) => {
                    let plain = text.strip_prefix("daily ").unwrap_or(&text);
                    prop_assert_eq!(time.to_string(), plain);
                }
                Err(e) => prop_assert!(e.to_string().starts_with("schedule_time cannot be")),
            }
        }

        #[test]
        fn no_zone_is_too_strange_to_read(text in "\\PC{0,40}|[A-Za-z]{1,10}/[A-Za-z_]{1,12}") {
            if let Ok(zone) = text.parse::<ZoneName>() {
                prop_assert!(zone.as_str().eq_ignore_ascii_case(&text));
                prop_assert_eq!(zone.as_str().parse::<ZoneName>().unwrap(), zone);
            }
        }

        /// A change either leads to a policy that passes every check, or changes nothing.
        #[test]
        fn a_change_leads_to_a_whole_policy_or_to_an_error_that_names_its_field(
            counts in prop::collection::vec(prop::option::of(0..5000u32), 4),
            spans in prop::collection::vec(prop::option::of(prop_oneof![Just(0u32), any::<u32>(), 3600..700_000u32]), 4),
            time in prop::option::of("[0-2][0-9]:[0-6][0-9]"),
            zone in prop::option::of(prop::sample::select(vec!["UTC", "Europe/Berlin", "Mars/Olympus"])),
            target in prop::option::of("[a-z]{1,6}[0-9-]{0,2}"),
            cross in prop::option::of(any::<bool>()),
        ) {
            let change = PolicyChange {
                enabled: None,
                daily: counts[0],
                weekly: counts[1],
                monthly: counts[2],
                yearly: counts[3],
                cross_region: cross,
                target_region: target,
                schedule_time: time,
                time_zone: zone.map(str::to_owned),
                consistency: None,
                rpo_secs: spans[0],
                rto_secs: spans[1],
                verify_every_secs: spans[2],
                drill_every_secs: spans[3],
            };
            let fields = [
                "daily_retention", "weekly_retention", "monthly_retention", "yearly_retention", "retention",
                "rpo", "rto", "verify_every", "drill_every", "schedule_time", "time_zone",
                "target_region", "cross_region",
            ];
            match Policy::default().apply(&change, &eastus()) {
                Ok(policy) => {
                    prop_assert!(policy.check(&eastus()).is_ok());
                    let again = policy.apply(&PolicyChange::default(), &eastus()).unwrap();
                    prop_assert_eq!(again, policy);
                }
                Err(e) => {
                    prop_assert!(fields.contains(&e.field), "{}", e);
                    prop_assert!(!e.allowed.is_empty());
                }
            }
        }
    }
}
