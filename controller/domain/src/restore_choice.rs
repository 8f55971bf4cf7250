//! Which backup a restore to a point in time takes, and how long restores take.

use std::time::Duration;

use azdr_env::WallTime;

/// What is known of a backup that a restore could take.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// The instant it shows.
    pub at: WallTime,
    /// Why it cannot be restored, if so.
    pub unusable: Option<String>,
}

/// The backup that was chosen for a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Its place among the candidates.
    pub index: usize,
    /// Why this one, for the person who must agree.
    pub because: String,
}

/// No backup shows the machine at or before the time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no backup that can be restored was taken at or before {wanted}{rest}")]
pub struct NothingBefore {
    wanted: WallTime,
    rest: String,
}

/// Chooses the newest backup at or before a time; `candidates` in any order.
///
/// # Errors
/// When none can be restored; says what there is.
pub fn at_or_before(
    candidates: &[Candidate<'_>],
    wanted: WallTime,
) -> Result<Choice, NothingBefore> {
    let mut newest_first: Vec<usize> = (0..candidates.len()).collect();
    newest_first.sort_by_key(|&i| std::cmp::Reverse(candidates[i].at));
    let (after, before): (Vec<usize>, Vec<usize>) =
        newest_first.into_iter().partition(|&i| candidates[i].at > wanted);
    let usable = before.iter().position(|&i| candidates[i].unusable.is_none());
    let passed_over = &before[..usable.unwrap_or(before.len())];
    let mut words: Vec<String> = passed_over
        .iter()
        .map(|&i| {
            let c = &candidates[i];
            format!("{} of {} {}", c.name, second(c.at), c.unusable.as_deref().unwrap_or_default())
        })
        .collect();
    let Some(place) = usable else {
        let later = after.iter().rev().find(|&&i| candidates[i].unusable.is_none());
        words.extend(later.map(|&i| {
            format!(
                "the first one after it is {} of {}",
                candidates[i].name,
                second(candidates[i].at)
            )
        }));
        let rest = if words.is_empty() { String::new() } else { format!(": {}", words.join("; ")) };
        return Err(NothingBefore { wanted: second(wanted), rest });
    };
    let chosen = &candidates[before[place]];
    let mut because = format!(
        "the newest one at or before {}: it shows the VM as it was {} earlier",
        second(wanted),
        span(wanted.since(chosen.at))
    );
    words.extend(after.last().map(|&i| format!("{} was taken after it", candidates[i].name)));
    if !words.is_empty() {
        because.push_str(&format!(" ({})", words.join("; ")));
    }
    Ok(Choice { index: before[place], because })
}

/// A time to the second, for people.
fn second(at: WallTime) -> WallTime {
    WallTime::from_unix_ms(at.unix_ms().div_euclid(1000) * 1000)
}

/// "2 h 05 min", "1 d 3 h"; rounded down.
fn span(d: Duration) -> String {
    let minutes = d.as_secs() / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m:02} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

/// What restores are expected to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Estimate {
    /// The fastest of what it rests on.
    pub low: Duration,
    /// The slowest.
    pub high: Duration,
    /// What it rests on.
    pub basis: Basis,
}

/// What an estimate rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Basis {
    /// So many restores of this VM.
    ThisVm(usize),
    /// So many restores of any VM.
    AllVms(usize),
    /// Nothing was measured yet.
    Default,
}

impl Estimate {
    /// From what restores of this VM and of all VMs took, else a default for a VM of ordinary size.
    pub fn of(this_vm: &[Duration], all_vms: &[Duration]) -> Self {
        let measured = |times: &[Duration], basis: Basis| {
            let (low, high) = (*times.iter().min()?, *times.iter().max()?);
            Some(Self { low, high, basis })
        };
        let minutes = |n: u64| Duration::from_secs(n * 60);
        measured(this_vm, Basis::ThisVm(this_vm.len()))
            .or_else(|| measured(all_vms, Basis::AllVms(all_vms.len())))
            .unwrap_or(Self { low: minutes(10), high: minutes(15), basis: Basis::Default })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> WallTime {
        WallTime::from_unix_ms(1_764_576_000_000 + minute * 60_000)
    }

    fn candidates() -> Vec<Candidate<'static>> {
        let good = |name, minute| Candidate { name, at: at(minute), unusable: None };
        vec![
            good("third", 120),
            Candidate { unusable: Some("is being deleted".into()), ..good("second", 60) },
            good("first", 0),
        ]
    }

    #[test]
    fn the_newest_usable_one_at_or_before_the_time_is_chosen_and_the_others_are_explained() {
        let choice = at_or_before(&candidates(), at(90)).expect("there is one");
        assert_eq!(choice.index, 2);
        assert_eq!(
            choice.because,
            "the newest one at or before 2025-12-01T09:30:00Z: it shows the VM as it was 1 h 30 min \
             earlier (second of 2025-12-01T09:00:00Z is being deleted; third was taken after it)"
        );
        let exact = at_or_before(&candidates(), at(120)).expect("its very instant counts");
        assert_eq!(exact.index, 0);
        assert!(exact.because.ends_with("0 min earlier"), "{}", exact.because);
    }

    #[test]
    fn where_there_is_none_it_says_what_there_is() {
        let early = at_or_before(&candidates(), at(-1)).expect_err("nothing is that old");
        assert_eq!(
            early.to_string(),
            "no backup that can be restored was taken at or before 2025-12-01T07:59:00Z: the first \
             one after it is first of 2025-12-01T08:00:00Z"
        );
        assert!(at_or_before(&[], at(0)).is_err());
    }

    #[test]
    fn an_estimate_says_what_it_rests_on() {
        let secs = Duration::from_secs;
        let own = Estimate::of(&[secs(9), secs(7)], &[secs(1)]);
        assert_eq!(own, Estimate { low: secs(7), high: secs(9), basis: Basis::ThisVm(2) });
        let fleet = Estimate::of(&[], &[secs(3)]);
        assert_eq!(fleet, Estimate { low: secs(3), high: secs(3), basis: Basis::AllVms(1) });
        assert_eq!(Estimate::of(&[], &[]).basis, Basis::Default);
    }
}
