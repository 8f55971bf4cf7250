//! What disks and snapshots hold, as far as a simulation looks at it: the witness, the agent's
//! identity, and how far a program has written that keeps an order across disks.
//!
//! Every machine runs a program that writes record *n* to its OS disk (the "log") every tenth of a
//! second, and to its data disks ("the data") a hundredth of a second after that. So on disks of one
//! instant the data is never ahead of the log; on disks of two instants it is.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_env::WallTime;
use azdr_identity::PeerCertificate;

const EVERY: Duration = Duration::from_millis(100);
const DATA_LATER: Duration = Duration::from_millis(10);

/// An agent's certificate, and the machine that it was enrolled on.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// What it shows at the door.
    pub certificate: PeerCertificate,
    /// vmId of its machine.
    pub vm_id: String,
}

/// What one disk or snapshot holds.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Recovery point, operation and nonce of the last witness.
    pub witness: Option<(String, String, String)>,
    /// On OS disks.
    pub enrolled: Option<Enrolled>,
    /// It is an OS disk's.
    pub is_os: bool,
    /// Last record written by `since`.
    written: u64,
    /// Since when a program has been writing to it.
    since: Option<WallTime>,
}

impl Content {
    /// The last record that is on it at this time.
    pub fn records(&self, now: WallTime) -> u64 {
        let Some(since) = self.since else { return self.written };
        let later = if self.is_os { Duration::ZERO } else { DATA_LATER };
        let spent = now.since(since).saturating_sub(later);
        self.written + (spent.as_millis() / EVERY.as_millis()) as u64
    }
}

/// All contents, by lower-case resource id.
#[derive(Debug, Default)]
pub struct Contents {
    all: BTreeMap<String, Content>,
}

impl Contents {
    /// Of a disk or snapshot.
    pub fn get(&self, key: &str) -> Option<&Content> {
        self.all.get(key)
    }

    /// Of a disk, to be written; made if it is new.
    pub fn of(&mut self, key: &str) -> &mut Content {
        self.all.entry(key.to_owned()).or_default()
    }

    /// A resource has been made of another; an existing one keeps its content, as in Azure.
    pub fn copy(&mut self, from: &str, to: &str, now: WallTime) {
        if let Some(source) = self.all.get(from)
            && !self.all.contains_key(to)
        {
            let written = source.records(now);
            let copy = Content { written, since: None, ..source.clone() };
            self.all.insert(to.to_owned(), copy);
        }
    }

    /// The resource is gone.
    pub fn remove(&mut self, key: &str) {
        self.all.remove(key);
    }

    /// Programs begin to write (again).
    pub fn begin(&mut self, disks: &[String], now: WallTime) {
        for disk in disks {
            let content = self.of(disk);
            content.since.get_or_insert(now);
        }
    }

    /// Nothing is written any more: power, or a freeze.
    pub fn stop(&mut self, disks: &[String], now: WallTime) {
        for disk in disks {
            let content = self.of(disk);
            content.written = content.records(now);
            content.since = None;
        }
    }

    /// Whether these disks can be of one instant: the data is never ahead of the log, and never more
    /// than one record behind. Otherwise how they are torn.
    ///
    /// # Errors
    /// In words.
    pub fn of_one_instant(&self, keys: &[String], now: WallTime) -> Result<(), String> {
        let find = |os: bool| {
            keys.iter()
                .filter_map(|k| self.get(k))
                .filter(|c| c.is_os == os)
                .map(|c| c.records(now))
                .collect::<Vec<_>>()
        };
        for log in find(true) {
            for data in find(false) {
                if data > log || log - data > 1 {
                    return Err(format!("the log ends at record {log}, the data at {data}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> WallTime {
        WallTime::from_unix_ms(ms)
    }

    fn running() -> Contents {
        let mut contents = Contents::default();
        contents.of("os").is_os = true;
        contents.of("data");
        contents.begin(&["os".into(), "data".into()], at(0));
        contents
    }

    #[test]
    fn snapshots_of_one_instant_are_whole_and_of_two_are_torn() {
        let mut contents = running();
        contents.copy("os", "s0", at(10_000));
        contents.copy("data", "s1", at(10_000));
        contents.copy("data", "later", at(10_300));
        let whole = ["s0".to_owned(), "s1".to_owned()];
        assert_eq!(contents.of_one_instant(&whole, at(99_000)), Ok(()));
        let torn = ["s0".to_owned(), "later".to_owned()];
        assert!(contents.of_one_instant(&torn, at(99_000)).is_err());
    }

    #[test]
    fn a_freeze_makes_any_two_instants_one() {
        let mut contents = running();
        let disks = ["os".to_owned(), "data".to_owned()];
        contents.stop(&disks, at(10_005));
        contents.copy("os", "s0", at(10_100));
        contents.copy("data", "s1", at(11_900));
        contents.begin(&disks, at(12_000));
        let set = ["s0".to_owned(), "s1".to_owned()];
        assert_eq!(contents.of_one_instant(&set, at(99_000)), Ok(()));
    }

    #[test]
    fn writing_to_an_existing_name_changes_nothing() {
        let mut contents = running();
        contents.copy("os", "s0", at(1_000));
        contents.copy("os", "s0", at(9_000));
        assert_eq!(contents.get("s0").unwrap().records(at(9_000)), 10);
    }
}
