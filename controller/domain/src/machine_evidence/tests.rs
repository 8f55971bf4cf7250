use super::*;

const POINT: &str = "vm-backup-daily-20251201-0800";

fn shown(mount_point: &str, nonce: &str) -> ShownWitness {
    ShownWitness {
        digest: format!("{nonce} {mount_point}"),
        digests: vec![format!("{nonce} /"), format!("{nonce} /data")],
        seal: Seal::Holds,
        mount_point: mount_point.into(),
        disk: if mount_point == "/" { "os".into() } else { "lun 0".into() },
        found_on: format!("uuid {mount_point}"),
        written_to: format!("uuid {mount_point}"),
        vm_id: "vm-a".into(),
        boot_id: "boot then".into(),
        point: if nonce == "n" { POINT.into() } else { "vm-backup-daily-20251130-0800".into() },
        nonce: nonce.into(),
        written_at_unix_ms: if nonce == "n" { 1000 } else { 500 },
    }
}

fn record(mount_point: &str) -> WitnessRecord {
    let of = shown(mount_point, "n");
    WitnessRecord {
        digest: of.digest,
        mount_point: of.mount_point,
        disk: of.disk,
        file_system_uuid: of.found_on,
        vm_id: of.vm_id,
        written_at_unix_ms: of.written_at_unix_ms,
    }
}

fn records() -> [WitnessRecord; 2] {
    [record("/"), record("/data")]
}

fn wanted(records: &[WitnessRecord]) -> Wanted<'_> {
    let disks = &[MachineDisk::Os, MachineDisk::Lun(0)];
    Wanted { point: POINT, nonce: "n", disks, all_disks: true, records, checks: &[] }
}

fn against(shown: &[ShownWitness]) -> String {
    let records = records();
    let wanted = wanted(&records);
    Witnesses::judge(&wanted, shown).against(&wanted).expect("something speaks against it")
}

#[test]
fn witnesses_of_every_disk_are_right_with_and_without_a_record() {
    let all = [shown("/", "n"), shown("/data", "n")];
    for records in [records().to_vec(), Vec::new()] {
        let wanted = wanted(&records);
        let judged = Witnesses::judge(&wanted, &all);
        assert_eq!(judged.right, ["/", "/data"]);
        assert_eq!((judged.against(&wanted), judged.missing.len()), (None, 0));
    }
}

#[test]
fn a_disk_of_an_older_point_is_named() {
    let why = against(&[shown("/", "n"), shown("/data", "old")]);
    assert_eq!(
        why,
        "/data (lun 0) shows the witness of vm-backup-daily-20251130-0800, which is older, instead \
         of vm-backup-daily-20251201-0800, while / shows that of vm-backup-daily-20251201-0800: the \
         disks are of different origin"
    );
}

#[test]
fn a_disk_of_another_vm_is_named() {
    let foreign = ShownWitness { vm_id: "vm-b".into(), ..shown("/data", "theirs") };
    let why = against(&[shown("/", "n"), foreign]);
    assert!(why.starts_with("/data (lun 0) shows the witness of another VM (vm-b)"), "{why}");
}

#[test]
fn a_witness_that_was_copied_or_altered_is_no_witness() {
    let copied = ShownWitness {
        mount_point: "/data".into(),
        found_on: "uuid /data".into(),
        ..shown("/", "n")
    };
    assert!(
        against(&[shown("/", "n"), copied.clone()])
            .contains("written to uuid /, and this is uuid /data")
    );
    // Where no UUID is known, the same witness twice still is one too many.
    let blind = ShownWitness { found_on: String::new(), written_to: String::new(), ..copied };
    assert!(against(&[shown("/", "n"), blind]).contains("copy of another file system's witness"));
    let altered = ShownWitness { seal: Seal::Broken, ..shown("/data", "n") };
    assert!(against(&[shown("/", "n"), altered]).contains("its seal does not hold"));
    let invented = ShownWitness { digest: "x".into(), ..shown("/data", "n") };
    assert!(against(&[shown("/", "n"), invented]).contains("was not written there"));
    // Of the older format, with the right nonce, where sealed ones were written.
    let older = ShownWitness { digest: "y".into(), seal: Seal::None, ..shown("/data", "n") };
    assert!(against(&[shown("/", "n"), older]).contains("was not written there"));
}

#[test]
fn a_disk_that_shows_nothing_is_missing_and_not_wrong() {
    let records = records();
    for records in [&records[..], &[]] {
        let wanted = wanted(records);
        let judged = Witnesses::judge(&wanted, &[shown("/", "n")]);
        assert_eq!(judged.against(&wanted), None);
        assert_eq!(judged.missing.len(), 1, "{judged:?}");
    }
    let judged = Witnesses::judge(&wanted(&records), &[shown("/", "n")]);
    assert!(judged.missing[0].1.starts_with("/data (lun 0) shows no witness"), "{judged:?}");
    assert!(against(&[]).contains("shows no witness of"));
}

#[test]
fn a_disk_that_stays_attached_may_show_what_it_likes() {
    let records = [record("/")];
    let partly = Wanted { all_disks: false, ..wanted(&records) };
    let judged = Witnesses::judge(&partly, &[shown("/", "n"), shown("/data", "old")]);
    assert_eq!((judged.right.as_slice(), judged.wrong.len()), (&["/".to_owned()][..], 0));
    // But not a disk that was replaced.
    let judged = Witnesses::judge(&partly, &[shown("/", "old"), shown("/data", "old")]);
    assert_eq!(judged.wrong.len(), 1, "{judged:?}");
}

#[test]
fn a_point_without_a_freeze_has_no_witness_to_compare() {
    let none = Wanted { nonce: "", ..wanted(&[]) };
    let judged = Witnesses::judge(&none, &[shown("/", "old")]);
    assert_eq!((judged.against(&none), judged), (None, Witnesses::default()));
}

fn fact(name: &str, state: FactState) -> Fact {
    Fact { name: name.into(), state, detail: "words".into(), at_unix_ms: 1, required: false }
}

/// A machine that is well.
fn report() -> MachineReport {
    let names = [
        "boot",
        "fstab",
        "file-system-writable:/",
        "free-space:/",
        "file-system-writable:/data",
        "free-space:/data",
        "systemd",
        "sshd",
    ];
    MachineReport {
        version: 1,
        boot_id: "boot now".into(),
        wall_unix_ms: 10_000,
        facts: names.map(|name| fact(name, FactState::Pass)).to_vec(),
    }
}

fn judge(report: &MachineReport, shown: &[ShownWitness]) -> Evidence {
    Evidence::judge(&wanted(&records()), shown, report, 10_500)
}

fn both() -> [ShownWitness; 2] {
    [shown("/", "n"), shown("/data", "n")]
}

#[test]
fn a_machine_that_is_well_and_the_right_one_is_booted() {
    let evidence = judge(&report(), &both());
    assert!(evidence.is_booted(), "{evidence:#?}");
    assert_eq!((evidence.harm(), evidence.awaited().count()), (None, 0));
    assert_eq!(evidence.doubt(), "");
    assert!(!Evidence::default().is_booted(), "nothing is no evidence");
    assert!(!Evidence::none("silent", 1).is_booted());
}

#[test]
fn every_required_fact_that_fails_or_is_unknown_or_absent_withholds_the_proof() {
    let required: Vec<_> = judge(&report(), &both())
        .facts
        .into_iter()
        .filter(|f| f.required)
        .map(|f| f.name)
        .collect();
    assert_eq!(required.len(), 9, "{required:?}");
    for name in required.iter().filter(|n| *n != "agent" && !n.starts_with("witness")) {
        for state in [FactState::Fail, FactState::Unknown] {
            let mut ill = report();
            ill.facts.iter_mut().filter(|f| f.name == *name).for_each(|f| f.state = state);
            let evidence = judge(&ill, &both());
            assert!(!evidence.is_booted(), "{name} {state:?}");
            assert_eq!(evidence.harm().is_some(), state == FactState::Fail, "{name}");
        }
        let mut silent = report();
        silent.facts.retain(|f| f.name != *name);
        let evidence = judge(&silent, &both());
        assert!(!evidence.is_booted(), "{name} is absent");
        assert_eq!(evidence.awaited().map(|f| &f.name).collect::<Vec<_>>(), [name]);
    }
}

#[test]
fn a_disk_without_a_witness_withholds_the_proof_and_is_not_waited_for() {
    let disks = [MachineDisk::Os, MachineDisk::Lun(0), MachineDisk::Lun(7)];
    let of_lun_7 = |evidence: &Evidence| {
        let fact = evidence.facts.iter().find(|f| f.name == "witness:lun 7").unwrap();
        (fact.state, fact.required)
    };
    // As noted at the capture, and, after a rebuild, as the machine shows them.
    for records in [records().to_vec(), Vec::new()] {
        let three = Wanted { disks: &disks, ..wanted(&records) };
        let evidence = Evidence::judge(&three, &both(), &report(), 10_500);
        assert!(!evidence.is_booted(), "{evidence:#?}");
        assert_eq!(of_lun_7(&evidence), (FactState::Unknown, true));
        let of_disks = |f: &&Fact| f.name.starts_with("witness:") && !f.name.contains('/');
        assert_eq!(evidence.facts.iter().filter(of_disks).count(), 1, "{evidence:#?}");
        assert_eq!((evidence.harm(), evidence.awaited().count()), (None, 0), "{evidence:#?}");
        let doubt = evidence.doubt();
        assert!(doubt.starts_with("witness:lun 7: no file system of this disk"), "{doubt}");
        assert!(doubt.contains("take a new recovery point"), "{doubt}");
    }
    // One volume on both.
    let mut spanning = records();
    spanning[1].disk = "lun 0 + lun 7".into();
    let three = Wanted { disks: &disks, ..wanted(&spanning) };
    assert!(Evidence::judge(&three, &both(), &report(), 10_500).is_booted());
}

#[test]
fn where_no_disk_is_known_nothing_is_demanded_of_it_and_it_is_named() {
    for [root, data] in [["", ""], ["vda", "vdb"]] {
        let mut records = records();
        (records[0].disk, records[1].disk) = (root.into(), data.into());
        let evidence = Evidence::judge(&wanted(&records), &both(), &report(), 10_500);
        assert!(evidence.is_booted(), "{evidence:#?}");
        for name in ["witness:os", "witness:lun 0"] {
            let fact = evidence.facts.iter().find(|f| f.name == name).unwrap();
            assert_eq!((fact.state, fact.required), (FactState::Unknown, false), "{data:?}");
        }
        assert_eq!(evidence.doubt(), "");
    }
    // An agent that has recognised one would have recognised the other.
    for words in ["", "sdx"] {
        let mut records = records();
        records[1].disk = words.into();
        let evidence = Evidence::judge(&wanted(&records), &both(), &report(), 10_500);
        assert!(!evidence.is_booted(), "{words:?}");
        assert!(evidence.doubt().starts_with("witness:lun 0: no file system"), "{evidence:#?}");
        assert!(!evidence.facts.iter().any(|f| f.name == "witness:os"), "it has one");
    }
    // Where there is no witness at all, one fact says so.
    let evidence = Evidence::judge(&wanted(&[]), &[], &report(), 10_500);
    let of_witnesses = evidence.facts.iter().filter(|f| f.name.starts_with("witness"));
    assert_eq!(of_witnesses.map(|f| &*f.name).collect::<Vec<_>>(), ["witness"]);
}

#[test]
fn what_is_not_required_is_shown_and_decides_nothing() {
    let mut odd = report();
    for name in ["systemd", "sshd", "journal-recovery", "network"] {
        odd.facts.retain(|f| f.name != name);
        odd.facts.push(fact(name, FactState::Fail));
    }
    odd.wall_unix_ms = 10_500 + 61_000;
    let evidence = judge(&odd, &both());
    assert!(evidence.is_booted());
    let failed = evidence.facts.iter().filter(|f| f.state == FactState::Fail).count();
    assert_eq!(failed, 5, "{evidence:?}");
}

#[test]
fn a_missing_disk_a_failing_application_and_the_old_boot_are_harm() {
    let evidence = judge(&report(), &both()[..1]);
    assert!(!evidence.is_booted());
    assert!(evidence.harm().unwrap().contains("/data (lun 0)"), "{evidence:?}");
    assert_eq!(evidence.wrong_machine, "", "it is not there: no other machine");
    let mixed = judge(&report(), &[shown("/", "n"), shown("/data", "old")]);
    assert!(mixed.wrong_machine.contains("different origin") && mixed.harm().is_some());
    let mut ill = report();
    ill.facts.push(fact("app:shop", FactState::Fail));
    assert_eq!(judge(&ill, &both()).harm().unwrap(), "app:shop: words");
    ill.facts.pop();
    ill.facts.push(fact("app:shop", FactState::Unknown));
    assert!(!judge(&ill, &both()).is_booted() && judge(&ill, &both()).harm().is_none());
    let old = MachineReport { boot_id: "boot then".into(), ..report() };
    assert!(judge(&old, &both()).harm().unwrap().contains("not been started"));
}

#[test]
fn a_check_that_is_gone_is_missed_and_one_that_never_was_is_not() {
    let (records, checks) = (records(), ["10-db".to_owned()]);
    let known = Wanted { checks: &checks, ..wanted(&records) };
    let judge = |report: &MachineReport| Evidence::judge(&known, &both(), report, 10_500);
    let gone = judge(&report());
    assert!(!gone.is_booted() && gone.harm().is_none(), "{gone:#?}");
    assert_eq!(gone.doubt(), "app:10-db: was not reported");
    for (state, booted) in
        [(FactState::Pass, true), (FactState::Fail, false), (FactState::Unknown, false)]
    {
        let mut said = report();
        said.facts.push(fact("app:10-db", state));
        assert_eq!(judge(&said).is_booted(), booted, "{state:?}");
        let named = judge(&said).facts.iter().filter(|f| f.name == "app:10-db").count();
        assert_eq!(named, 1, "{state:?}");
    }
}

#[test]
fn a_machines_words_are_one_line_and_not_without_end() {
    let mut loud = report();
    loud.facts.push(Fact { detail: "ä\n".repeat(1_000), ..fact("sshd", FactState::Fail) });
    let evidence = judge(&loud, &both());
    let kept = &evidence.facts.iter().rfind(|f| f.name == "sshd").unwrap().detail;
    assert_eq!((kept.chars().count(), kept.contains('\n')), (LONGEST, false));
    loud.facts.push(fact("app:\u{1b}[2J10-db", FactState::Fail));
    let harm = judge(&loud, &both()).harm().unwrap();
    assert!(harm.contains("app: [2J10-db") && !harm.contains('\u{1b}'), "{harm}");
}

#[test]
fn what_is_told_beyond_all_measure_hides_nothing() {
    let mut told = report();
    told.facts.resize(MOST_FACTS, fact("sshd", FactState::Pass));
    assert!(judge(&told, &both()).is_booted(), "as many as are looked at");
    told.facts.push(fact("app:10-db", FactState::Fail));
    let evidence = judge(&told, &both());
    assert!(!evidence.is_booted() && evidence.doubt().contains("401 facts"), "{evidence:#?}");
    // A required one is not taken as told when it was not looked at.
    let boot = told.facts.remove(0);
    told.facts.push(boot);
    assert!(judge(&told, &both()).doubt().contains("boot: was not reported"));
    // Of witnesses too: behind as many as are looked at there may be one that is wrong. Those of disks that
    // stay attached say nothing.
    let records = records();
    let partly = Wanted { all_disks: false, ..wanted(&records) };
    let judge = |shown: &[_]| Evidence::judge(&partly, shown, &report(), 10_500);
    let elsewhere = ShownWitness { found_on: "elsewhere".into(), ..shown("/mnt", "old") };
    let mut many = both().to_vec();
    many.resize(MOST_WITNESSES, elsewhere);
    assert!(judge(&many).is_booted(), "as many as are looked at");
    many.push(shown("/data", "old"));
    let evidence = judge(&many);
    assert!(!evidence.is_booted() && evidence.doubt().contains("65 are shown"), "{evidence:#?}");
    let without_end = Evidence::none(&"é\n".repeat(1_000_000), 1).facts.remove(0).detail;
    assert_eq!((without_end.chars().count(), without_end.contains('\n')), (LONGEST, false));
}

#[test]
fn an_older_agent_is_asked_for_what_it_knows() {
    let facts = ["boot", "file-system-writable:/"].map(|n| fact(n, FactState::Pass)).to_vec();
    let older = MachineReport { version: 0, wall_unix_ms: 0, facts, ..report() };
    let witness = |mount: &str| ShownWitness { boot_id: String::new(), ..shown(mount, "n") };
    assert!(judge(&older, &[witness("/"), witness("/data")]).is_booted());
    let nothing = MachineReport { facts: vec![fact("boot", FactState::Pass)], ..older };
    assert!(!judge(&nothing, &[witness("/"), witness("/data")]).is_booted());
}
