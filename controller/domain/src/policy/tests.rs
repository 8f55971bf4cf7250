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
