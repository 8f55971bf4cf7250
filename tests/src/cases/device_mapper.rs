//! File systems on device-mapper's volumes: named with the disk below them, frozen, and on it as they were
//! frozen. And disks that do not answer, which is what a suspended volume is to the file system on it: before a
//! freeze, as it begins, and in the window; each time everything else is thawed in time, and nothing is
//! frozen once the volume is resumed.
//!
//! A suspension usually freezes the file system above, as `lvcreate --snapshot` does with that of its origin. In the
//! window this kernel refuses both: a file system is frozen once.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::machine::{
    DB, DELAY_MS, Frozen, HOLD_LIMIT, LIMIT, SLACK, back_up, is_writable, newest, seconds,
    snapshot_file, succeeded, text, writer_agrees,
};
use super::{Case, Figures, Place, debian};
use crate::disk_image::DiskImage;
use crate::guest::Guest;
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, until};

pub(super) const CASE: Case = Case {
    name: "device-mapper",
    shows: "logical volumes are frozen and named with their disks; suspended ones hold up no other file system",
    rounds: None,
    run,
};

/// The longest that a freeze which does not complete keeps others frozen.
const FREEZE_LIMIT: Duration = Duration::from_secs(3);

/// How late a backup's snapshots begin so that something can happen in the window before.
const MEANWHILE_MS: u64 = 3_000;

/// In the machine, on its two spare disks: a volume group with a volume on each of them, `one` with a file system of
/// its own, `two` below `slow`, which is a delay and has a file system.
const MAKE: &str = r#"set -e
disk() {
    for disk in /sys/block/vd*; do
        if [ "$(cat "$disk/serial")" = "$1" ]; then echo "/dev/${disk##*/}"; fi
    done
}
modprobe -a dm-mod dm-snapshot dm-delay
vgcreate --quiet --yes lab "$(disk lun1)" "$(disk lun2)"
lvcreate --quiet --yes --name one --size 24M lab "$(disk lun1)"
lvcreate --quiet --yes --name two --size 24M lab "$(disk lun2)"
dmsetup create slow --table "0 $(blockdev --getsz /dev/lab/two) delay /dev/lab/two 0 0"
for volume in lab/one mapper/slow; do
    mke2fs -q -t ext4 "/dev/$volume"
    mkdir -p "/srv/${volume#*/}"
    mount "/dev/$volume" "/srv/${volume#*/}"
done
"#;

/// There is no udev that would make what is in /dev.
const WITHOUT_UDEV: &str = "export DM_DISABLE_UDEV=1";

/// In the machine: writes are delayed by so many milliseconds from now on.
const DELAY: &str = "dmsetup load slow --table \"0 $(blockdev --getsz /dev/lab/two) \
    delay /dev/lab/two 0 0 /dev/lab/two 0 MILLISECONDS\" && dmsetup suspend slow && dmsetup resume slow";

/// Lets a disk answer no more, with nobody told of it.
const NO_ANSWER: &str = "dmsetup suspend --noflush --nolockfs slow";

/// In the machine, whose clock it is: lets the disk answer no more as soon as an operation's process is there, which is
/// when its witnesses are written, and tells for how long the writer stood still.
const AS_IT_FREEZES: &str = r#"
now() { read -r up rest </proc/uptime; echo "${up%.*}${up#*.}"; }
thawd=$(systemctl show --property MainPID --value azdr-thawd)
echo ready
while read -r operation rest </proc/$thawd/task/$thawd/children; [ -z "$operation" ]; do
    usleep 2000
done
dmsetup suspend --noflush --nolockfs slow
before=$(wc -c </data/applied)
last=$before
since=$(now)
longest=0
changed=$since
while [ $(($(now) - since)) -lt 800 ]; do
    usleep 20000
    applied=$(wc -c </data/applied)
    if [ "$applied" != "$last" ]; then
        stood=$(($(now) - changed))
        [ $stood -le $longest ] || longest=$stood
        last=$applied
        changed=$(now)
    fi
done
echo "stood_still=$longest still=$(($(now) - changed)) records=$(((last - before) / 8))"
"#;

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = debian::db_with_spare_disks(place, 2)?;
    guest.run("echo 20000 >/etc/lab-writer; sync; systemctl start lab-writer")?;
    volumes(&guest, MAKE)?;
    let disks = [disk_of(&guest, "lun1")?, disk_of(&guest, "lun2")?];
    Ok(vec![
        frozen_whole(place, &lab, &guest, &disks)?,
        spanning_refused(&lab, &guest, &disks)?,
        snapshot_in_the_window(place, &mut lab, &guest)?,
        suspended_before(&lab, &guest)?,
        suspended_as_it_freezes(place, &lab, &guest)?,
        suspended_in_the_window(place, &mut lab, &guest)?,
        {
            judge::at_rest(&lab, &[DB])?;
            "nothing stays frozen, nobody waits, and each next backup is whole".to_owned()
        },
    ])
}

/// Runs commands of device-mapper's in the machine.
fn volumes(guest: &Guest, script: &str) -> Result<String> {
    guest.run(&format!("{WITHOUT_UDEV}; {script}"))
}

/// The kernel's name of a disk, by its serial number.
fn disk_of(guest: &Guest, serial: &str) -> Result<String> {
    let found = guest.run(&format!("grep -lx {serial} /sys/block/vd*/serial"))?;
    let name = found.split('/').nth(3).with_context(|| format!("no disk {serial}: {found}"))?;
    Ok(name.to_owned())
}

/// What a list of file systems says of one: the kernel's names of its disks.
fn disks_below(file_systems: &Value, mount_point: &str) -> Result<Vec<String>> {
    let all = file_systems.as_array().context("a list of file systems")?;
    let found = all.iter().find(|f| f["mount_point"] == mount_point);
    let disks = found.and_then(|f| f["disks"].as_array());
    let disks = disks.with_context(|| format!("{mount_point} is not in {file_systems:#}"))?;
    let name = |disk: &Value| disk["name"].as_str().or(disk.as_str()).map(str::to_owned);
    disks.iter().map(|disk| name(disk).context("a disk has a name")).collect()
}

/// Named with the right disk beforehand and in the point's record; a backup is whole, and the snapshots have the
/// file systems as they were frozen, with what nobody had written out.
fn frozen_whole(place: &Place, lab: &Lab, guest: &Guest, disks: &[String; 2]) -> Result<String> {
    let preflight = lab.azdr.json(&["agent", "preflight", DB])?;
    ensure!(preflight["ready"] == true, "{preflight:#}");
    guest.run("azdr-agent preflight")?;
    guest.run("for place in one slow; do echo whole >/srv/$place/unwritten; done")?;
    let point = whole(lab, guest)?;
    let shown = lab.azdr.json(&["backup", "show", text(&point, "name")])?;
    let frozen = &shown["capture"]["file_systems"];
    for ((volume, lun), disk) in [("one", 1), ("slow", 2)].into_iter().zip(disks) {
        let mount_point = format!("/srv/{volume}");
        for told in [&preflight["file_systems"], frozen] {
            let below = disks_below(told, &mount_point)?;
            ensure!(below == [disk.clone()], "{mount_point} is on {disk}, not on {below:?}");
        }
        let image = logical_volume(place, lab, guest, &point, lun)?;
        ensure!(!image.needs_recovery()?, "{mount_point} was not frozen when its disk was copied");
        let file = image.read("/unwritten")?;
        ensure!(file.as_deref() == Some("whole\n"), "{mount_point}: the file is {file:?}");
        let witness = image.read("/.azdr/witness")?.context("there is no witness")?;
        let witness: Value = serde_json::from_str(&witness).context("a witness")?;
        let name = text(&point, "name");
        ensure!(witness["recovery_point"] == name, "not the witness of {name}: {witness:#}");
    }
    Ok(format!(
        "/srv/one on {}, /srv/slow through two volumes on {}: empty journals",
        disks[0], disks[1]
    ))
}

/// The file system in the first logical volume of a LUN's disk, out of a point's snapshot.
fn logical_volume(
    place: &Place,
    lab: &Lab,
    guest: &Guest,
    point: &Value,
    lun: i64,
) -> Result<DiskImage> {
    let volume = if lun == 1 { "one" } else { "two" };
    let table = volumes(guest, &format!("dmsetup table lab-{volume}"))?;
    let (sectors, first) = linear(&table)?;
    let disk = snapshot_file(&lab.simulator, point, Some(lun))?;
    let file = place.folder.join(format!("{volume}.part"));
    copy_part(&disk, &file, first * 512, sectors * 512)?;
    DiskImage::copy_of(&file, place.folder.join(format!("{volume}.img")))
}

/// How many sectors of its disk a volume is, and from which on: `0 49152 linear 254:32 2048`.
fn linear(table: &str) -> Result<(u64, u64)> {
    let words: Vec<&str> = table.split_whitespace().collect();
    let ["0", sectors, "linear", _, first] = words[..] else {
        bail!("no volume in one piece: {table}");
    };
    Ok((sectors.parse()?, first.parse()?))
}

fn copy_part(from: &Path, to: &Path, first: u64, length: u64) -> Result<()> {
    let mut from = std::fs::File::open(from)?;
    from.seek(SeekFrom::Start(first))?;
    let copied = std::io::copy(&mut from.take(length), &mut std::fs::File::create(to)?)?;
    ensure!(copied == length, "the disk ends after {copied} bytes of the volume's {length}");
    Ok(())
}

/// A file system on both disks, which are none of Azure's here: nothing says that a snapshot is taken of either, so
/// nothing is frozen.
fn spanning_refused(lab: &Lab, guest: &Guest, disks: &[String; 2]) -> Result<String> {
    volumes(
        guest,
        "lvcreate --quiet --yes --name wide --stripes 2 --size 8M lab && mke2fs -q /dev/lab/wide && \
         mkdir -p /srv/wide && mount /dev/lab/wide /srv/wide",
    )?;
    let preflight = lab.azdr.run(&["agent", "preflight", DB, "--output", "json"])?;
    ensure!(preflight.code == 1, "it could be frozen: {}", preflight.stdout);
    let preflight: Value = serde_json::from_str(&preflight.stdout)?;
    let mut below = disks_below(&preflight["file_systems"], "/srv/wide")?;
    below.sort();
    ensure!(below == *disks, "/srv/wide is on {below:?}");
    let point = back_up(lab)?;
    let reason = text(&point, "consistency_reason");
    ensure!(
        text(&point, "consistency") == "uncoordinated"
            && reason.contains("/srv/wide spans disks")
            && disks.iter().all(|disk| reason.contains(disk.as_str())),
        "{point:#}"
    );
    volumes(guest, "umount /srv/wide && lvremove --quiet --yes lab/wide")?;
    whole(lab, guest)?;
    Ok(format!("refused: {reason}"))
}

/// Somebody else takes a snapshot of a volume, and suspends one, in the window.
fn snapshot_in_the_window(place: &Place, lab: &mut Lab, guest: &Guest) -> Result<String> {
    // LVM writes to /etc first, and that is frozen: it has to wait like everybody.
    let snapshot = "lvcreate --quiet --yes --snapshot --name snap --size 8M lab/one";
    let act =
        format!("{WITHOUT_UDEV}; ({snapshot} >/run/waits 2>&1; echo ended=$? >>/run/waits) & true");
    let frozen = Frozen::doing(lab, guest, &place.folder, 4, MEANWHILE_MS, &act)?;
    frozen.thaws_after(lab, |_| Ok(()))?;
    let said = until("lvcreate ends", LIMIT, || {
        let said = guest.try_run("cat /run/waits")?.stdout;
        Ok(if said.contains("ended=") { Look::Done(said) } else { Look::Waiting(said) })
    })?;
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = newest(lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{said}: {point:#}");
    ensure!(said.contains("ended=0"), "{said}");
    // One that is there changes nothing.
    whole(lab, guest)?;
    volumes(guest, "lvremove --quiet --yes lab/snap")?;

    // Without that, the kernel refuses: the file system is frozen already.
    let act = format!(
        "{WITHOUT_UDEV}; (dmsetup suspend slow; echo suspended=$?; {snapshot} --autobackup n; \
         echo snapshot=$?) >/run/refused 2>&1"
    );
    let frozen = Frozen::doing(lab, guest, &place.folder, 4, MEANWHILE_MS, &act)?;
    frozen.thaws_after(lab, |_| Ok(()))?;
    let refused = guest.run("cat /run/refused")?;
    ensure!(
        refused.contains("suspended=1")
            && refused.contains("resource busy")
            && !refused.contains("snapshot=0"),
        "{refused}"
    );
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = newest(lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{refused}: {point:#}");
    // What LVM leaves behind.
    volumes(
        guest,
        "lvremove --quiet --yes lab/snap; dmsetup clear lab-one; dmsetup remove --retry lab-one-real; \
         dmsetup info",
    )?;
    whole(lab, guest)?;
    Ok("lvcreate --snapshot waits for the thaw; told not to write to /etc, it and a suspension are refused \
        as busy, and the backup is whole"
        .to_owned())
}

/// A disk answers no more before a backup, the file system above frozen by the suspension: nothing is frozen, a
/// second backup does not even try.
fn suspended_before(lab: &Lab, guest: &Guest) -> Result<String> {
    volumes(guest, "dmsetup suspend slow")?;
    let mut reasons = Vec::new();
    for word in ["witness for /srv/slow", "earlier sync of /srv/slow is still blocked"] {
        let point = back_up(lab)?;
        let reason = text(&point, "consistency_reason").to_owned();
        ensure!(
            text(&point, "consistency") == "uncoordinated" && reason.contains(word),
            "not {word}: {point:#}"
        );
        reasons.push(reason);
    }
    // Everything else takes writes all the while.
    guest.run("for place in /root /data /srv/one; do echo x >$place/x && sync $place/x; done")?;
    writer_agrees(guest)?;
    volumes(guest, "dmsetup resume slow")?;
    whole(lab, guest)?;
    Ok(format!("suspended before: {}", reasons.join("; then: ")))
}

/// A disk answers no more when its file system is being frozen.
fn suspended_as_it_freezes(place: &Place, lab: &Lab, guest: &Guest) -> Result<String> {
    // Its freeze takes long enough to be met.
    volumes(guest, &DELAY.replace("MILLISECONDS", "300"))?;
    let watcher = guest
        .start(&format!("{WITHOUT_UDEV}{AS_IT_FREEZES}"), &place.folder.join("as-it-freezes"))?;
    let said = |word: &str| {
        until(&format!("the watcher says {word}"), LIMIT, || {
            let printed = watcher.printed();
            Ok(if printed.contains(word) { Look::Done(printed) } else { Look::Waiting(printed) })
        })
    };
    said("ready")?;
    let job = lab.azdr.start_job(&["backup", "trigger", DB])?;
    let printed = said("records=")?;
    let stood = stood_still(&printed)?;
    ensure!(stood < FREEZE_LIMIT + SLACK, "the writer stood still for {stood:?}: {printed}");
    // The others go on while this one is stuck.
    guest.run("for place in /root /data /srv/one; do echo x >$place/x && sync $place/x; done")?;
    volumes(guest, "dmsetup resume slow")?;
    succeeded(&lab.job_ended(job, LIMIT)?)?;
    let point = newest(lab)?;
    let reason = text(&point, "consistency_reason");
    ensure!(
        text(&point, "consistency") == "uncoordinated"
            && reason.contains("/srv/slow was not frozen within 3 s"),
        "{point:#}"
    );
    volumes(guest, &DELAY.replace("MILLISECONDS", "0"))?;
    whole(lab, guest)?;
    Ok(format!("as it freezes: the writer stood still for {}: {reason}", seconds(stood)))
}

/// For how long the writer stood still; it must go on.
fn stood_still(printed: &str) -> Result<Duration> {
    let value = |name: &str| -> Result<u64> {
        let mut words = printed.split_whitespace().filter_map(|word| word.split_once('='));
        let found = words.find(|(found, _)| *found == name).map(|(_, value)| value);
        Ok(found.with_context(|| format!("no {name}: {printed}"))?.parse()?)
    };
    ensure!(value("records")? > 0, "the writer stands still: {printed}");
    Ok(Duration::from_millis(10 * value("stood_still")?.max(value("still")?)))
}

/// A disk answers no more while its file system is frozen: its thaw cannot complete, the others' do.
fn suspended_in_the_window(place: &Place, lab: &mut Lab, guest: &Guest) -> Result<String> {
    let act = format!("{WITHOUT_UDEV}; {NO_ANSWER}");
    let before = told_thawed(guest)?.len();
    let frozen = Frozen::doing(lab, guest, &place.folder, 4, DELAY_MS, &act)?;
    let after = frozen.thaws_after(lab, |_| Ok(()))?;
    ensure!(after < HOLD_LIMIT + SLACK, "the writer went on only after {after:?}");
    guest.run("for place in /root /data /srv/one; do echo x >$place/x && sync $place/x; done")?;
    // Told as what it is, and by the thaw process: it runs, and nobody thaws beside it.
    until("the agent says that a thaw is stuck", LIMIT, || {
        let answer = lab.azdr.run(&["backup", "trigger", DB])?;
        let point = newest(lab)?;
        let words = format!("{} {point:#}", answer.words());
        Ok(if words.contains("is not over yet") { Look::Done(()) } else { Look::Waiting(words) })
    })?;
    volumes(guest, "dmsetup resume slow")?;
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    // Nothing was frozen since: it is the next line.
    until("the agent's log tells of the thaw", LIMIT, || {
        let told = told_thawed(guest)?;
        let Some(line) = told.get(before) else {
            return Ok(Look::Waiting(format!("{} thaws", told.len())));
        };
        ensure!(!line.contains("azdr-thawd died"), "{line}");
        Ok(Look::Done(()))
    })?;
    whole(lab, guest)?;
    Ok(format!("in the window: the others are thawed after {}", seconds(after)))
}

/// The lines of the agent's log that tell of a thaw.
fn told_thawed(guest: &Guest) -> Result<Vec<String>> {
    let lines = "journalctl --unit azdr-agent --output cat | { grep 'hold: thawed' || true; }";
    Ok(guest.run(lines)?.lines().map(str::to_owned).collect())
}

/// Everything takes writes, nobody hangs, and a backup is whole.
fn whole(lab: &Lab, guest: &Guest) -> Result<Value> {
    lab.simulator.set_faults(&json!([]))?;
    guest.run("for place in one slow; do echo x >/srv/$place/x && sync /srv/$place/x; done")?;
    is_writable(guest)?;
    let mut point = back_up(lab)?;
    // On a host that is busy an emulated machine may miss its lease.
    for _ in 0..2 {
        if text(&point, "consistency_reason").contains("the lease was not renewed") {
            point = back_up(lab)?;
        }
    }
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    writer_agrees(guest)?;
    Ok(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_in_one_piece_has_a_place_on_its_disk() {
        assert_eq!(linear("0 49152 linear 254:32 2048\n").unwrap(), (49_152, 2_048));
        for table in ["", "0 8 linear 254:32 0\n8 8 linear 254:48 0", "0 8 striped 2 8 1:1 0 1:2 0"]
        {
            assert!(linear(table).is_err(), "{table}");
        }
    }

    #[test]
    fn a_writer_that_still_stands_still_has_not_gone_on() {
        let said = |words: &str| stood_still(&format!("ready\n{words}"));
        let stood = |hundredths: u64| Duration::from_millis(10 * hundredths);
        assert_eq!(said("stood_still=310 still=4 records=90").unwrap(), stood(310));
        assert_eq!(said("stood_still=3 still=700 records=9").unwrap(), stood(700));
        assert!(said("stood_still=0 still=800 records=0").is_err());
        assert!(said("").is_err());
    }

    #[test]
    fn disks_are_named_by_preflights_and_by_records() {
        let preflight =
            json!([{"mount_point": "/a", "disks": [{"kind": "unknown", "name": "vdc"}]}]);
        let record = json!([{"mount_point": "/a", "disks": ["vdc"]}]);
        for told in [preflight, record] {
            assert_eq!(disks_below(&told, "/a").unwrap(), ["vdc"]);
            assert!(disks_below(&told, "/b").is_err());
        }
    }
}
