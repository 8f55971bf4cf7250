//! Of the machine on Debian only the data disk is frozen, and for long. So what the machine's own programs do
//! meanwhile waits for none of their files, and it can be seen when they thaw and why.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Place;
use super::machine::{DB, Frozen, LIMIT, agent_is_ready, newest, seconds, succeeded, text};
use crate::guest::Guest;
use crate::lab::Lab;
use crate::poll::{Look, until};

/// The longest that may be configured: whatever thaws much sooner is not the limit.
const HOLD_LIMIT_MS: u32 = 25_000;
/// The snapshots of a slow backup begin later than that.
const DELAY_MS: u64 = 30_000;
/// From a command's start to the writer's going on: systemctl or a package manager has to come to it first. On an
/// idle host that is a second or two; on an emulated machine of a busy one everything is ten times slower.
const WRITER_LIMIT: Duration = Duration::from_secs(15);
/// From the agent's being told to its confirmed thaw, by its own clock: it has nothing else to do. (On such a
/// machine of a busy host it takes up to 3 s.)
const AGENT_LIMIT: Duration = Duration::from_secs(5);

/// In the machine, whose clock it is, with `$act`: does it, and says when the writer went on and when it was done.
const ACT: &str = r#"
now() { read -r up rest </proc/uptime; echo "$up"; }
looks=1000
before=$(wc -c </data/applied)
since=$(now)
sh -c "$act" >/run/act-said 2>&1 </dev/null &
while [ "$(wc -c </data/applied)" = "$before" ] && [ $looks -gt 0 ]; do
    usleep 20000
    looks=$((looks - 1))
done
went_on=$(now)
status=0
wait $! || status=$?
echo "since=$since went_on=$went_on ended=$(now) looks=$looks status=$status"
cat /run/act-said
"#;

/// From now on nothing but `/data` is frozen, for as long as may be configured.
pub(super) fn only_data(lab: &mut Lab, guest: &Guest) -> Result<()> {
    guest.run("sed -i '1i file_systems = [\"/data\"]' /etc/azdr/agent.toml")?;
    let backup = format!("[backup]\nhold_limit_ms = {HOLD_LIMIT_MS}\n\n[drill]");
    lab.controller.reconfigure("[drill]", &backup)?;
    lab.controller.stop()?;
    lab.controller.start()?;
    guest.run("systemctl restart azdr-agent")?;
    agent_is_ready(lab, DB)
}

/// From now on everything is frozen again.
pub(super) fn everything(lab: &Lab, guest: &Guest) -> Result<()> {
    guest.run("sed -i '/^file_systems/d' /etc/azdr/agent.toml && systemctl restart azdr-agent")?;
    agent_is_ready(lab, DB)
}

/// Freezes `/data` by a backup that takes longer than anything stays frozen.
pub(super) fn freeze(place: &Place, lab: &Lab, guest: &Guest) -> Result<Frozen> {
    Frozen::by_backup_delayed(lab, guest, &place.folder, DELAY_MS)
}

/// Freezes `/data`, runs a command (without single quotes) in the machine that must end the freeze at once, as a
/// thaw that was asked for; says how long it took.
///
/// # Errors
/// When something else ended it, or later; when the command fails; when the backup claims anything.
pub(super) fn thaws_first(
    place: &Place,
    lab: &mut Lab,
    guest: &Guest,
    what: &str,
    command: &str,
) -> Result<String> {
    let thaws = thaws(guest, "")?.len();
    let frozen = freeze(place, lab, guest)?;
    let script = format!("act='{command}'\n{ACT}");
    let mut said = String::new();
    frozen.thaws_after(lab, |_| {
        said = guest.run(&script)?;
        Ok(())
    })?;
    let acted = acted(&said).with_context(|| format!("{what}: {said}"))?;
    let thaw = last_thaw(guest, "", thaws).with_context(|| what.to_owned())?;
    claims_nothing(lab, &frozen).with_context(|| what.to_owned())?;
    ensure!(acted.went_on < WRITER_LIMIT, "{what}: the writer went on only then: {said}");
    thaw.was_asked_for().with_context(|| what.to_owned())?;
    Ok(format!(
        "{what}: the writer goes on after {}, {:.2} s from the agent's being told to the thaw, ended after {}",
        seconds(acted.went_on),
        thaw.took().as_secs_f64(),
        seconds(acted.ended)
    ))
}

/// Waits for the end of a backup whose freeze was broken.
pub(super) fn claims_nothing(lab: &Lab, frozen: &Frozen) -> Result<()> {
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = newest(lab)?;
    let said = text(&point, "consistency");
    ensure!(said == "uncoordinated", "a freeze that broke counted: {point:#}");
    Ok(())
}

/// When things happened after a command's start, as [`ACT`] says.
#[derive(PartialEq, Eq, Debug)]
struct Acted {
    went_on: Duration,
    ended: Duration,
}

fn acted(said: &str) -> Result<Acted> {
    let value = |name: &str| {
        let mut words = said.split_whitespace().filter_map(|word| word.split_once('='));
        let found = words.find(|(found, _)| *found == name);
        found.map(|(_, value)| value).with_context(|| format!("no {name}"))
    };
    ensure!(value("status")? == "0", "the command failed");
    ensure!(value("looks")? != "0", "the writer stands still");
    let time = |name: &str| anyhow::Ok(value(name)?.parse::<f64>()?);
    let since = time("since")?;
    Ok(Acted {
        went_on: Duration::try_from_secs_f64(time("went_on")? - since)?,
        ended: Duration::try_from_secs_f64(time("ended")? - since)?,
    })
}

/// A thaw as the agent tells of it in its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Thaw {
    /// When the agent was told to end, before it; `None`: it was not.
    told: Option<Duration>,
    /// When it was confirmed; of that day, by the machine's clock.
    at: Duration,
    cause: String,
    line: String,
}

impl Thaw {
    /// From the agent's being told to end.
    pub(super) fn took(&self) -> Duration {
        let day = Duration::from_secs(24 * 3600);
        self.told.map_or(Duration::MAX, |told| match self.at.checked_sub(told) {
            Some(took) => took,
            None => self.at + day - told,
        })
    }

    /// Whether it came at once, because it was asked for.
    pub(super) fn was_asked_for(&self) -> Result<()> {
        ensure!(self.cause == "THAW_CAUSE_COMMAND", "it was not asked for: {}", self.line);
        ensure!(
            self.took() < AGENT_LIMIT,
            "only {:?} after the agent was told: {}",
            self.took(),
            self.line
        );
        Ok(())
    }
}

/// The last thaw that the agent's log tells of, once there are more than `before`. `options` are
/// journalctl's, such as which boot.
pub(super) fn last_thaw(guest: &Guest, options: &str, before: usize) -> Result<Thaw> {
    until("the agent's log tells of the thaw", LIMIT, || {
        let thaws = thaws(guest, options)?;
        Ok(match thaws.last() {
            Some(last) if thaws.len() > before => Look::Done(last.clone()),
            _ => Look::Waiting(format!("{} thaws", thaws.len())),
        })
    })
}

/// The thaws in the agent's log. (What the machine has just done may keep it from answering at once.)
fn thaws(guest: &Guest, options: &str) -> Result<Vec<Thaw>> {
    let journal = format!("journalctl --quiet {options} --unit azdr-agent --output cat");
    until("the machine shows the agent's log", LIMIT, || {
        let ended = guest.try_run(&journal)?;
        Ok(match ended.status.success() {
            true => Look::Done(thaws_in(&ended.stdout)),
            false => Look::Waiting(ended.stderr),
        })
    })
}

fn thaws_in(log: &str) -> Vec<Thaw> {
    let mut told = None;
    let mut thaws = Vec::new();
    for line in log.lines() {
        if line.contains(": preparing to freeze") {
            told = None;
        } else if line.contains(": told to end") {
            told = time_of_day(line);
        } else if line.contains(": thawed operation=")
            && let (Some(at), Some((_, rest))) = (time_of_day(line), line.split_once(" cause=\""))
        {
            let cause = rest.split('"').next().unwrap_or_default().to_owned();
            thaws.push(Thaw { told, at, cause, line: line.to_owned() });
        }
    }
    thaws
}

/// `2026-01-31T23:59:59.123456Z  INFO …`
fn time_of_day(line: &str) -> Option<Duration> {
    let (_, time) = line.split_whitespace().next()?.strip_suffix('Z')?.split_once('T')?;
    let mut parts = time.split(':');
    let (hours, minutes): (u64, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let seconds = Duration::try_from_secs_f64(parts.next()?.parse().ok()?).ok()?;
    Some(Duration::from_secs((hours * 60 + minutes) * 60) + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_failed_or_a_writer_that_stands_still_is_told() {
        let said = "since=100.25 went_on=101.50 ended=102.25 looks=940 status=0\nUnpacking …";
        let (went_on, ended) = (Duration::from_millis(1_250), Duration::from_secs(2));
        assert_eq!(acted(said).unwrap(), Acted { went_on, ended });
        for (good, bad) in [("status=0", "status=1"), ("looks=940", "looks=0"), ("ended", "x")] {
            assert!(acted(&said.replace(good, bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_thaw_counts_as_asked_for_when_the_agent_was_told_just_before() {
        let log = "2026-01-31T23:59:40.000000Z  INFO azdr_agent::quiesce: preparing to freeze operation=\"a\"\n\
            2026-01-31T23:59:59.900000Z  INFO azdr_agent::run: told to end\n\
            2026-02-01T00:00:00.150000Z  INFO azdr_agent::hold: thawed operation=\"a\" window_ms=7000 \
            unbroken=true cause=\"THAW_CAUSE_COMMAND\" reason=\"\" refused_calls=0\n\
            2026-02-01T00:01:00.000000Z  INFO azdr_agent::quiesce: preparing to freeze operation=\"b\"\n\
            2026-02-01T00:01:02.000000Z  INFO azdr_agent::hold: thawed operation=\"b\" window_ms=1000 \
            unbroken=true cause=\"THAW_CAUSE_COMMAND\" reason=\"\" refused_calls=0";
        let thaws = thaws_in(log);
        assert_eq!(thaws.len(), 2);
        assert_eq!(thaws[0].took(), Duration::from_millis(250));
        thaws[0].was_asked_for().unwrap();
        assert!(thaws[1].was_asked_for().is_err(), "nobody told the agent to end");
        for cause in ["THAW_CAUSE_HOLD_LIMIT", "THAW_CAUSE_AGENT_DIED"] {
            let other = thaws_in(&log.replace("THAW_CAUSE_COMMAND", cause));
            assert!(other[0].was_asked_for().is_err(), "{cause}");
        }
        let late = thaws_in(&log.replace("23:59:59.9", "23:59:50.9"));
        assert!(late[0].was_asked_for().is_err(), "told 9 s before");
    }
}
