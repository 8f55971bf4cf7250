use super::*;

#[test]
fn a_policy_is_read_and_what_is_left_out_stays_open() {
    let text = "# nightly\ndaily: 7\nweekly: 0\ntime: \"02:30\"\ntime_zone: Europe/Berlin\n\
                consistency: require\ntarget_region: none\nrpo: 36h\nverify_every: none\n";
    let policy = parse(text).unwrap();
    assert_eq!((policy.daily_retention, policy.weekly_retention), (Some(7), Some(0)));
    assert_eq!(policy.monthly_retention, None);
    assert_eq!(policy.schedule_time.as_deref(), Some("02:30"));
    assert_eq!((policy.cross_region, policy.target_region), (Some(false), None));
    assert_eq!((policy.rpo_secs, policy.rto_secs), (Some(36 * 3600), None));
    assert_eq!(policy.verify_every_secs, Some(0));
    assert_eq!(parse("time: 02:30").unwrap().schedule_time.as_deref(), Some("02:30"));
    assert_eq!(parse("schedule: daily 04:15").unwrap().schedule_time.as_deref(), Some("04:15"));
}

#[test]
fn what_is_wrong_is_named_with_its_place_its_field_and_what_is_allowed() {
    for (text, line, column, words) in [
        ("daily: 7\nweekly: lots\n", 2, 9, "weekly is \"lots\": it must be a whole number from 0"),
        ("daily: 9999\n", 1, 8, "daily is \"9999\": it must be a whole number from 0 to 3650"),
        ("daily: -1\n", 1, 8, "daily is \"-1\""),
        ("daily: +1\n", 1, 8, "daily is \"+1\""),
        ("daily: 7\n\nhourly: 3\n", 3, 1, "there is no field \"hourly\": a policy has daily"),
        ("daily: 7\ndaily: 8\n", 2, 1, "daily is given twice"),
        ("daily: [7]\n", 1, 8, "daily must be a single value"),
        ("daily:\n  weekly: 4\n", 2, 3, "daily must be a single value"),
        ("- daily\n", 1, 1, "a policy is a list of"),
        ("daily: &a 7\nweekly: *a\n", 1, 8, "anchors are not allowed"),
        ("a: &a [x,x]\nb: &b [*a,*a]\n", 1, 4, "anchors are not allowed"),
        ("daily: !!int 7\n", 1, 8, "types (\"!…\") are not allowed"),
        ("daily: 7\n---\nweekly: 4\n", 2, 1, "second document"),
        ("consistency: maybe\n", 1, 14, "it must be require, prefer or any"),
        ("time:\n", 1, 5, "time has no value: it must be HH:MM"),
        ("time: 25:00\n", 1, 7, "time is \"25:00\": it must be HH:MM"),
        ("schedule: hourly 02:00\n", 1, 11, "it must be daily HH:MM"),
        ("time: 02:00\nschedule: daily 02:00\n", 2, 1, "say the same: give one"),
        ("rpo: 1m\n", 1, 6, "rpo is \"1m\": it must be 5m to 366d"),
        ("rto: 8d\n", 1, 6, "rto is \"8d\": it must be 1m to 7d"),
        ("drill_every: weekly\n", 1, 14, "a number with m, h, d or w"),
        ("? [a]\n: b\n", 1, 3, "the name of a field must be a single value"),
        ("", 1, 1, "there is no policy"),
        ("7\n", 1, 1, "a policy is a list of"),
    ] {
        let wrong = parse(text).unwrap_err();
        assert!(wrong.message.contains(words), "{text:?}: {}", wrong.message);
        assert_eq!(wrong.at, Place { line, column }, "{text:?}: {}", wrong.message);
    }
    assert!(parse("daily: 'x\n").unwrap_err().message.contains("this is no YAML"));
}

#[test]
fn what_is_huge_or_deep_is_refused_at_once_and_in_few_words() {
    let many = 1_000_000;
    for text in [
        "[".repeat(many),
        "{".repeat(many),
        format!("daily: {}", "[".repeat(many)),
        format!("daily: {}", "9".repeat(many)),
        format!("{}: 7", "x".repeat(many)),
        format!("consistency: {}", "x".repeat(many)),
        "- ".repeat(many / 2),
        "- a\n".repeat(many / 4),
        format!("a: &a [x]\nb: &b [{}]\n", "*a,".repeat(many / 4)),
    ] {
        for wrong in [parse(&text).unwrap_err(), parse_named(&text).unwrap_err()] {
            assert!(wrong.message.len() < 400, "{:.400}", wrong.message);
        }
    }
}

#[test]
fn a_file_that_is_too_large_or_missing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    assert!(read(&path).unwrap_err().message.contains("cannot be read"));
    std::fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
    assert!(read(&path).unwrap_err().message.contains("larger than 1 MB"));
    std::fs::write(&path, "daily: x").unwrap();
    assert!(read(&path).unwrap_err().message.contains("policy.yaml:1:8: daily"));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(read_named(&path).unwrap_err().message.contains("cannot be read"));
}

#[test]
fn named_policies_are_read_with_their_selectors() {
    let text = "policies:\n- name: gold\n  select:\n    resource_group: Prod\n    tags: {backup: gold}\n\
                \x20 daily: 14\n  target_region: westus2\n- name: rest\n  select: {tags: {env: 7}}\n";
    let policies = parse_named(text).unwrap();
    let gold = &policies[0];
    assert_eq!(gold.name, "gold");
    let select = gold.select.as_ref().unwrap();
    assert_eq!((&*select.resource_group, &*select.tags["backup"]), ("Prod", "gold"));
    let policy = gold.policy.as_ref().unwrap();
    assert_eq!((policy.daily_retention, policy.cross_region), (Some(14), Some(true)));
    assert_eq!(policies[1].select.as_ref().unwrap().tags["env"], "7");
    assert_eq!(parse_named("policies: []").unwrap(), []);
}

#[test]
fn what_is_wrong_in_a_named_policy_is_named_with_its_place() {
    let head = "policies:\n- name: gold\n  select: {resource_group: prod}\n";
    let many: String =
        (0..101).map(|n| format!("- {{name: p{n}, select: {{resource_group: g}}}}\n")).collect();
    let tags: String = (0..21).map(|n| format!("t{n}: x, ")).collect();
    for (text, line, column, words) in [
        ("daily: 7\n".to_owned(), 1, 1, "there is no field \"daily\" here: expected \"policies:\""),
        (String::new(), 1, 1, "expected \"policies:\""),
        ("policies: 7\n".to_owned(), 1, 11, "policies must be a list"),
        ("policies:\n- gold\n".to_owned(), 2, 3, "a policy must be a mapping"),
        ("policies:\n- daily: 7\n".to_owned(), 2, 3, "name is missing"),
        ("policies:\n- name: Gold\n".to_owned(), 2, 9, "name is \"Gold\": it must be 1 to 63"),
        ("policies:\n- name: \"\u{5d0}\"\n".to_owned(), 2, 9, "lower-case letters"),
        ("policies:\n- name: gold\n".to_owned(), 2, 3, "select is missing"),
        (format!("{head}  hourly: 3\n"), 4, 3, "a policy has name, select, daily"),
        (format!("{head}  daily: x\n"), 4, 10, "daily is \"x\""),
        (format!("{head}{}", &head[10..]), 4, 9, "policy gold is given twice"),
        (head.replace("prod", "''"), 3, 28, "the name of a resource group"),
        (head.replace("resource_group: prod", ""), 3, 11, "must have a resource_group, tags"),
        (head.replace("resource_group", "group"), 3, 12, "there is no field \"group\""),
        (head.replace("resource_group: prod", "tags: {a: }"), 3, 20, "tag a has no value"),
        (head.replace("resource_group: prod", "tags: {a\t 1}"), 3, 23, "tag a\\t 1 has no value"),
        (head.replace("resource_group: prod", "tags: [a]"), 3, 18, "tags must be a list of"),
        (head.replace("prod", "&x prod"), 3, 28, "anchors are not allowed"),
        (format!("policies:\n{many}"), 102, 3, "at most 100 policies"),
    ] {
        let wrong = parse_named(&text).unwrap_err();
        assert!(wrong.message.contains(words), "{text:?}: {}", wrong.message);
        assert_eq!(wrong.at, Place { line, column }, "{text:?}: {}", wrong.message);
    }
    let wrong = parse_named(&head.replace("resource_group: prod", &format!("tags: {{{tags}}}")))
        .unwrap_err();
    assert!(wrong.message.contains("at most 20 tags"), "{}", wrong.message);
}

#[test]
fn the_published_schema_is_the_programs() {
    let published = include_str!("../../../docs/policy.schema.json");
    let mut schema = schema();
    schema.sort_all_objects();
    assert_eq!(published, format!("{schema:#}\n"), "azdr policy schema > docs/policy.schema.json");
}

mod strange {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "policies:\n- name: gold\n  select:\n    resource_group: Prod\n    \
                        tags: {backup: gold, \"a b\": 'c'}\n  daily: 14\n  schedule: daily 02:30\n  \
                        target_region: westus2\n  rpo: 36h\n# rest\n- {name: rest, select: {tags: {e: 1}}}\n";

    /// Whatever it is, the answer is a policy or a short message about a place in the file.
    fn judge(text: &str) -> Result<(), TestCaseError> {
        // YAML's line breaks: a carriage return is one by itself.
        let lines = text.replace("\r\n", "\n").split(['\n', '\r']).count() + 1;
        let check = |wrong: Wrong| {
            prop_assert!(wrong.message.chars().count() < 500, "{}", wrong.message);
            prop_assert!((1..=lines).contains(&wrong.at.line), "{:?} of {} lines", wrong.at, lines);
            prop_assert!(wrong.at.column >= 1);
            prop_assert!(!wrong.message.chars().any(char::is_control), "{:?}", wrong.message);
            Ok(())
        };
        if let Err(wrong) = parse(text) {
            check(wrong)?;
        }
        match parse_named(text) {
            Err(wrong) => check(wrong)?,
            Ok(policies) => {
                prop_assert!(policies.len() <= MAX_POLICIES);
                for policy in policies {
                    let select = policy.select.unwrap();
                    prop_assert!(is_name(&policy.name));
                    prop_assert!(!select.resource_group.is_empty() || !select.tags.is_empty());
                    prop_assert!(policy.policy.unwrap().daily_retention.unwrap_or(0) <= 3650);
                }
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_text(text in "\\PC{0,80}") {
            judge(&text)?;
        }

        #[test]
        fn anything_that_looks_like_yaml(
            words in prop::collection::vec(prop::sample::select(vec![
                "policies", "name", "select", "tags", "daily", "rpo", "7", "gold", ": ", ":", "- ", "\n", "\n  ",
                "\n    ", "{", "}", "[", "]", ", ", "&a ", "*a", "!!str ", "'", "\"", "|\n", ">\n", "---\n", "...\n",
                "? ", "# ", "%YAML 1.2\n", "<<: ", "~", "null", "\t", "\u{0}", "\u{202e}", "\u{5d0}", "\r\n", "\\",
            ]), 0..60),
        ) {
            judge(&words.concat())?;
        }

        /// A good file with some characters changed, left out or put in.
        #[test]
        fn a_good_file_after_some_slips_of_the_finger(
            slips in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, any::<char>()), 1..6),
        ) {
            let mut text: Vec<char> = GOOD.chars().collect();
            for (at, what, c) in slips {
                let at = at.index(text.len());
                match what {
                    0 => text[at] = c,
                    1 => { text.remove(at); }
                    _ => text.insert(at, c),
                }
            }
            judge(&text.into_iter().collect::<String>())?;
        }

        /// What is written as a file is read as what it was.
        #[test]
        fn a_policy_reads_back(
            daily in 0..=3650u32, yearly in 0..=100u32, hour in 0..24u8, minute in 0..60u8,
            rpo in prop::option::of(1..=8784u32), tags in prop::collection::btree_map("[a-zA-Z0-9 _-]{1,20}", "[^\\p{C}\\p{Z}]{1,20}", 1..5),
        ) {
            let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
            let shown: Vec<String> =
                tags.iter().map(|(n, v)| format!("      {}: {}\n", quoted(n), quoted(v))).collect();
            let rpo_text = rpo.map_or("none".to_owned(), |h| format!("{h}h"));
            let text = format!(
                "policies:\n  - name: p\n    select:\n     tags:\n{}    daily: {daily}\n    yearly: {yearly}\n    \
                 schedule: \"daily {hour:02}:{minute:02}\"\n    rpo: {rpo_text}\n",
                shown.concat()
            );
            let policies = parse_named(&text).map_err(|e| TestCaseError::fail(format!("{e:?}\n{text}")))?;
            let policy = policies[0].policy.as_ref().unwrap();
            prop_assert_eq!(policy.daily_retention, Some(daily));
            prop_assert_eq!(policy.yearly_retention, Some(yearly));
            let time = format!("{hour:02}:{minute:02}");
            prop_assert_eq!(policy.schedule_time.as_deref(), Some(time.as_str()));
            prop_assert_eq!(policy.rpo_secs, Some(rpo.unwrap_or(0) * 3600));
            let read: std::collections::BTreeMap<_, _> =
                policies[0].select.clone().unwrap().tags.into_iter().collect();
            prop_assert_eq!(read, tags);
        }
    }

    #[test]
    fn the_good_file_is_good() {
        assert_eq!(parse_named(GOOD).unwrap().len(), 2);
    }
}
