//! What the built-in writer writes, and how to tell whether copies of its disks belong together.
//!
//! The writer appends numbered records, each first to the log ([`WAL`], on the OS disk) and then to
//! the data ([`DATA`], on the data disk with the highest LUN; without one, on the OS disk too), and
//! never begins a record before the last one is in both. So at any one instant the log is equal to the
//! data or one record ahead of it. Copies of the two disks from different instants are further apart,
//! or the wrong way round: torn.

use std::fmt;

use bytes::Bytes;

use super::tree::Tree;

/// The log, within the OS disk.
pub const WAL: &str = "/var/lib/ledger/wal";
/// The data, within its disk.
pub const DATA: &str = "/var/lib/ledger/data";

/// Records, in order: which numbers each boot of a machine wrote. As text, a line per boot:
/// `1-57 0c9b…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Boot id and the last number that it wrote.
    runs: Vec<(String, u64)>,
}

impl Ledger {
    /// The last record's number.
    pub(super) fn last(&self) -> u64 {
        self.runs.last().map_or(0, |(_, last)| *last)
    }

    /// Appends records of this boot until `last`.
    pub(super) fn append(&mut self, boot: &str, last: u64) {
        if last <= self.last() {
            return;
        }
        match self.runs.last_mut() {
            Some((by, until)) if by == boot => *until = last,
            _ => self.runs.push((boot.to_owned(), last)),
        }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        let mut text = String::new();
        let mut first = 1;
        for (boot, last) in &self.runs {
            text.push_str(&format!("{first}-{last} {boot}\n"));
            first = last + 1;
        }
        text.into()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut ledger = Self::default();
        for line in std::str::from_utf8(bytes).ok()?.lines() {
            let (range, boot) = line.split_once(' ')?;
            let (first, last) = range.split_once('-')?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if first != ledger.last() + 1 || last < first {
                return None;
            }
            ledger.runs.push((boot.to_owned(), last));
        }
        Some(ledger)
    }

    /// Reads a ledger; a missing file is an empty one.
    pub(super) fn read(tree: &Tree, path: &str) -> Option<Self> {
        tree.read(path).map_or(Some(Self::default()), |bytes| Self::from_bytes(bytes))
    }

    /// The same records up to this number.
    fn until(&self, last: u64) -> Self {
        let mut ledger = Self::default();
        for (boot, until) in &self.runs {
            ledger.append(boot, last.min(*until));
        }
        ledger
    }
}

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// The writer never wrote to these disks.
    Unwritten,
    /// The disks are from one instant (or from instants between which nothing was written).
    Holds {
        /// Records that are in the log.
        records: u64,
    },
    /// They are not.
    Torn {
        /// How.
        why: String,
    },
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwritten => f.write_str("never written to"),
            Self::Holds { records } => write!(f, "{records} records, in order"),
            Self::Torn { why } => write!(f, "torn: {why}"),
        }
    }
}

/// Checks the disks of one machine, or snapshots of them.
pub fn check<'t>(disks: impl IntoIterator<Item = &'t Tree>) -> Consistency {
    let (mut wal, mut data) = (None, None);
    for disk in disks {
        wal = wal.or_else(|| disk.read(WAL));
        data = data.or_else(|| disk.read(DATA));
    }
    if wal.is_none() && data.is_none() {
        return Consistency::Unwritten;
    }
    let read = |file: Option<&Bytes>| {
        file.map_or(Some(Ledger::default()), |bytes| Ledger::from_bytes(bytes))
    };
    let torn = |why: String| Consistency::Torn { why };
    let (Some(wal), Some(data)) = (read(wal), read(data)) else {
        return torn("the log or the data is not readable".into());
    };
    let (logged, written) = (wal.last(), data.last());
    if written > logged {
        torn(format!("the data has {written} records, the log only {logged}"))
    } else if logged > written + 1 {
        torn(format!("the log has {logged} records, the data only {written}"))
    } else if wal.until(written) != data {
        torn("the log and the data are of different histories".into())
    } else {
        Consistency::Holds { records: logged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(wal: &[(&str, u64)], data: &[(&str, u64)]) -> [Tree; 2] {
        let tree = |path, runs: &[(&str, u64)]| {
            let mut ledger = Ledger::default();
            runs.iter().for_each(|(boot, last)| ledger.append(boot, *last));
            [(path, ledger.to_bytes())].into_iter().collect()
        };
        [tree(WAL, wal), tree(DATA, data)]
    }

    #[test]
    fn only_disks_of_one_instant_belong_together() {
        let check = |wal: &[_], data: &[_]| check(&disks(wal, data));
        assert_eq!(check(&[("a", 7)], &[("a", 7)]), Consistency::Holds { records: 7 });
        assert_eq!(check(&[("a", 7), ("b", 8)], &[("a", 7)]), Consistency::Holds { records: 8 });
        for (wal, data) in
            [([("a", 7)], [("a", 8)]), ([("a", 9)], [("a", 7)]), ([("a", 7)], [("b", 7)])]
        {
            assert!(matches!(check(&wal, &data), Consistency::Torn { .. }));
        }
        assert_eq!(super::check(&[Tree::default()]), Consistency::Unwritten);
    }
}
