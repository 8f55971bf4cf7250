//! Which of a machine's disks something lies on, as its agent tells.
//!
//! An agent knows the disks that Azure attaches by their place there; others it names as the kernel does.
//! Where it can place nothing at all, such a name, or no word, is not taken for *not on this disk*: nothing is
//! known of any. Once it has placed one thing it knows Azure's disks when it sees them: what it places nowhere
//! lies on none of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A disk as an agent tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineDisk {
    /// The OS disk.
    Os,
    /// A data disk.
    Lun(u32),
    /// The machine's own temporary disk, of which there are no snapshots.
    Temporary,
    /// One whose place in Azure is not known, by the kernel's name.
    Other(String),
}

impl MachineDisk {
    /// A disk of a recovery point; `None`: the OS disk.
    pub fn of_point(lun: Option<u32>) -> Self {
        lun.map_or(Self::Os, Self::Lun)
    }

    /// Reads what a witness says: `os`, `lun N`, `temporary` or a device's name, joined with ` + `. `None`:
    /// it says nothing.
    pub fn read(words: &str) -> Option<Vec<Self>> {
        let read = |word: &str| match (word, word.strip_prefix("lun ").map(str::parse)) {
            ("os", _) => Self::Os,
            ("temporary", _) => Self::Temporary,
            (_, Some(Ok(lun))) => Self::Lun(lun),
            _ => Self::Other(word.to_owned()),
        };
        (!words.is_empty()).then(|| words.split(" + ").map(read).collect())
    }
}

impl fmt::Display for MachineDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os => f.write_str("os"),
            Self::Lun(lun) => write!(f, "lun {lun}"),
            Self::Temporary => f.write_str("temporary"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// Whether anything of `all` lies on `disk`, given the disks of each (`None`: not told). `None`: not one of
/// them lies on a disk of Azure's as far as is told, and of one it is not known where it lies; or there is
/// nothing.
pub fn any_is_on<'a>(
    disk: &MachineDisk,
    all: impl IntoIterator<Item = Option<&'a [MachineDisk]>>,
) -> Option<bool> {
    let (mut found_any, mut any_placed, mut all_known) = (false, false, true);
    for disks in all {
        found_any = true;
        let Some(disks) = disks else {
            all_known = false;
            continue;
        };
        if disks.contains(disk) {
            return Some(true);
        }
        any_placed |= disks.iter().any(|d| matches!(d, MachineDisk::Os | MachineDisk::Lun(_)));
        all_known &= !disks.iter().any(|d| matches!(d, MachineDisk::Other(_)));
    }
    (any_placed || (found_any && all_known)).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_nothing_is_placed_is_it_neither_on_a_disk_nor_off_it() {
        use MachineDisk::{Lun, Os, Other, Temporary};
        let on = |disk, all: &[Option<&[MachineDisk]>]| any_is_on(&disk, all.iter().copied());
        assert_eq!(on(Os, &[Some(&[Os]), Some(&[Lun(0)])]), Some(true));
        assert_eq!(on(Lun(1), &[Some(&[Os]), Some(&[Lun(0), Lun(1)])]), Some(true));
        assert_eq!(on(Lun(1), &[Some(&[Os, Temporary]), Some(&[])]), Some(false));
        let other = || Other("vda".into());
        assert_eq!(on(Lun(1), &[Some(&[other()]), Some(&[Temporary])]), None);
        assert_eq!(on(Lun(1), &[None, Some(&[])]), None);
        assert_eq!(on(Os, &[Some(&[Temporary])]), Some(false), "it is known where all are");
        for placed in [[Os], [Lun(0)]] {
            assert_eq!(on(Lun(1), &[Some(&[other()]), Some(&placed)]), Some(false));
            assert_eq!(on(Lun(1), &[Some(&placed), None]), Some(false));
            let [placed] = placed;
            assert_eq!(on(Lun(1), &[Some(&[placed, other()])]), Some(false), "one volume");
        }
        assert_eq!(on(Os, &[]), None, "nothing is not nothing on it");
    }

    #[test]
    fn a_witness_says_in_words_on_which_disks_it_is() {
        use MachineDisk::{Lun, Os, Other, Temporary};
        for (words, disks) in [
            ("os", vec![Os]),
            ("lun 12", vec![Lun(12)]),
            ("os + lun 3 + temporary", vec![Os, Lun(3), Temporary]),
            ("vdb", vec![Other("vdb".into())]),
            ("lun x", vec![Other("lun x".into())]),
        ] {
            assert_eq!(MachineDisk::read(words), Some(disks.clone()), "{words}");
            let shown: Vec<String> = disks.iter().map(ToString::to_string).collect();
            assert_eq!(shown.join(" + "), words);
        }
        assert_eq!(MachineDisk::read(""), None);
        assert_eq!(MachineDisk::of_point(None), Os);
        assert_eq!(MachineDisk::of_point(Some(4)), Lun(4));
    }
}
