//! kill -9 of everything that could thaw, at once, while the machine is frozen: systemd starts the thaw process
//! again with the descriptors that it had parked, and that thaws.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::machine::{
    DB, Frozen, LIMIT, SLACK, agent_is_ready, back_up, is_writable, newest, succeeded, text,
    writer_agrees,
};
use super::{Case, Figures, Place, debian};
use crate::guest::Guest;
use crate::judge;
use crate::lab::Lab;

pub(super) const CASE: Case = Case {
    name: "systemd-kill",
    shows: "thaw process and agent killed at once in the window: systemd's hand-back of descriptors thaws",
    rounds: None,
    run,
};

/// Until the writer goes on. A new process takes its time on an emulated machine; without the descriptors it
/// would be never.
const LONGEST: Duration = Duration::from_secs(5).saturating_add(SLACK);

/// How often the writer is looked at, 20 ms apart and more, before it is taken to stand still for good.
const LOOKS: u32 = 500;
/// The same in the control, whose machine stays frozen.
const LOOKS_IN_VAIN: u32 = 200;

/// In the machine, whose clock it is, with `$thawd`, `$agent` and `$looks`: says what systemd keeps, kills, and
/// says when the writer went on and what the next thaw process was given.
///
/// The agent is stopped first, so that it cannot notice and thaw by itself; and the supervisor is the
/// first to be killed, which else would thaw for the operation's process.
const KILL_ALL: &str = r#"
now() { read -r up rest </proc/uptime; echo "$up"; }
read -r operation rest </proc/$thawd/task/$thawd/children
kill -STOP $agent
echo "parked=$(systemctl show --property NFileDescriptorStore --value azdr-thawd)"
before=$(wc -c </data/applied)
since=$(now)
kill -KILL $thawd $operation $agent
while [ "$(wc -c </data/applied)" = "$before" ] && [ $looks -gt 0 ]; do
    usleep 20000
    looks=$((looks - 1))
done
echo "operation=$operation since=$since until=$(now) looks=$looks"
next=$(systemctl show --property MainPID --value azdr-thawd)
echo "killed=$thawd next=$next"
set -- $(sed 's/.*) //' /proc/$next/stat)
echo "began=${20}"
tr '\0' '\n' </proc/$next/environ | grep ^LISTEN_ || true
"#;

/// A systemd that keeps nothing.
const NOTHING_KEPT: &str = "mkdir -p /run/systemd/system/azdr-thawd.service.d && \
    printf '[Service]\\nFileDescriptorStoreMax=0\\n' >/run/systemd/system/azdr-thawd.service.d/control.conf && \
    systemctl daemon-reload && systemctl restart azdr-thawd";

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = debian::db(place)?;
    guest.run("echo 20000 >/etc/lab-writer; sync; systemctl start lab-writer")?;
    let mut figures = Figures::new();
    for round in 1..=3 {
        let said = kill_all_while_frozen(place, &mut lab, &guest, LOOKS, "true")?;
        let HandedBack { began, went_on } =
            handed_back(&said).with_context(|| format!("round {round}: {said}"))?;
        ensure!(went_on < LONGEST, "the writer went on only after {went_on:?}: {said}");
        figures.push(format!(
            "the writer went on after {:.2} s, {:.2} s of them until the next thaw process began",
            went_on.as_secs_f64(),
            began.as_secs_f64(),
        ));
        released(&guest)?;
        agent_is_ready(&lab, DB)?;
        is_writable(&guest)?;
        let point = back_up(&lab)?;
        ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
        writer_agrees(&guest)?;
    }

    // The control: it is the descriptors, and nothing else, that ends the freeze.
    guest.run(NOTHING_KEPT)?;
    agent_is_ready(&lab, DB)?;
    let by_hand = "fsfreeze --unfreeze /data; fsfreeze --unfreeze /";
    let said = kill_all_while_frozen(place, &mut lab, &guest, LOOKS_IN_VAIN, by_hand)?;
    ensure!(
        said.contains("looks=0") && !said.contains("LISTEN_FDS"),
        "it thaws without the descriptors, too: {said}"
    );
    figures.push("without what systemd keeps it stands still until a person thaws".to_owned());
    is_writable(&guest)?;
    writer_agrees(&guest)?;
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}

/// Returns what [`KILL_ALL`] said; `then` is run after it. The backup that froze the machine claims nothing.
fn kill_all_while_frozen(
    place: &Place,
    lab: &mut Lab,
    guest: &Guest,
    looks: u32,
    then: &str,
) -> Result<String> {
    let main = |unit: &str| guest.run(&format!("systemctl show -P MainPID {unit}"));
    let (thawd, agent) = (main("azdr-thawd")?, main("azdr-agent")?);
    let script = format!("thawd={thawd} agent={agent} looks={looks}\n{KILL_ALL}{then}\n");
    let frozen = Frozen::by_slow_backup(lab, guest, &place.folder)?;
    let mut said = String::new();
    frozen.thaws_after(lab, |_| {
        said = guest.run(&script)?;
        Ok(())
    })?;
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = newest(lab)?;
    ensure!(
        text(&point, "consistency") == "uncoordinated",
        "a freeze that broke counted: {point:#}"
    );
    Ok(said)
}

/// Times after the kill.
#[derive(PartialEq, Eq, Debug)]
struct HandedBack {
    /// systemd started the next thaw process.
    began: Duration,
    /// The writer was seen to go on.
    went_on: Duration,
}

/// What [`KILL_ALL`] said: that all of a table and two roots was kept, and came back to another process.
fn handed_back(said: &str) -> Result<HandedBack> {
    let words: Vec<(&str, &str)> =
        said.split_whitespace().filter_map(|word| word.split_once('=')).collect();
    let value = |name: &str| {
        let found = words.iter().find(|(found, _)| *found == name);
        found.map(|(_, value)| *value).with_context(|| format!("no {name}"))
    };
    ensure!(!value("operation")?.is_empty(), "it was not frozen any more");
    ensure!(value("parked")? == "3", "not the table and two roots are parked");
    ensure!(value("next")? != value("killed")?, "the thaw process was not killed");
    ensure!(value("LISTEN_FDS")? == "3", "not all came back");
    ensure!(value("LISTEN_PID")? == value("next")?, "it came to somebody else");
    ensure!(
        value("LISTEN_FDNAMES")?.split(':').all(|name| name == "azdr-operation"),
        "by another name"
    );
    ensure!(value("looks")? != "0", "the writer stands still");
    let (since, until): (f64, f64) = (value("since")?.parse()?, value("until")?.parse()?);
    let began: f64 = value("began")?.parse()?;
    Ok(HandedBack {
        // In hundredths of a second since the boot.
        began: Duration::try_from_secs_f64((began / 100.0 - since).max(0.0))?,
        went_on: Duration::try_from_secs_f64(until - since)?,
    })
}

/// Whether systemd keeps nothing any more.
fn released(guest: &Guest) -> Result<()> {
    let kept = guest.run("systemctl show --property NFileDescriptorStore --value azdr-thawd")?;
    ensure!(kept == "0", "{kept} descriptors are still parked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "parked=3\noperation=11 since=100.25 until=101.50 looks=450\n\
                        killed=10 next=40\nbegan=10050\nLISTEN_PID=40\nLISTEN_FDS=3\n\
                        LISTEN_FDNAMES=azdr-operation:azdr-operation:azdr-operation";

    #[test]
    fn only_a_whole_hand_back_counts() {
        let (began, went_on) = (Duration::from_millis(250), Duration::from_millis(1_250));
        assert_eq!(handed_back(SAID).unwrap(), HandedBack { began, went_on });
        for (good, bad) in [
            ("parked=3", "parked=0"),
            ("operation=11", "operation="),
            ("next=40", "next=10"),
            ("LISTEN_FDS=3", "LISTEN_FDS=2"),
            ("LISTEN_FDS=3", ""),
            ("LISTEN_PID=40", "LISTEN_PID=41"),
            ("until=101.50", "until=100.00"),
            ("looks=450", "looks=0"),
        ] {
            assert!(handed_back(&SAID.replace(good, bad)).is_err(), "{bad}");
        }
    }
}
