//! How people name a recovery point: by its name, or by VM and time with any tier that it carries, or
//! by VM and date.
//!
//! `prod-db-backup-monthly-20251201-0800` is also `prod-db-backup-daily-20251201-0800` where it counts
//! as daily, and `prod-db-backup-daily-20251201` where it is the only one of that day. With the VM
//! named otherwise, `daily-20251201-0800` or `20251201` is enough. Parts compare whole and without
//! regard to case, never by prefix: `vm1` is not `vm10`.

use crate::recovery_point::{PointName, vm_part};
use crate::tier::{Tier, TierSet};

/// A description of a recovery point that may fit several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointReference {
    vm: Option<String>,
    tier: Option<Tier>,
    day: String,
    time: Option<String>,
    number: Option<String>,
}

impl PointReference {
    /// Reads `[{vm}-backup-][{tier}-]{yyyymmdd}[-{hhmm}[-{n}]]`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let (vm, rest) = match lower.rsplit_once("-backup-") {
            Some((vm, rest)) if !vm.is_empty() => (Some(vm.to_owned()), rest),
            Some(_) => return None,
            None => (None, lower.as_str()),
        };
        let (tier, rest) = match rest.split_once('-') {
            Some((word, dated)) if !is_digits(word, 8) => {
                (Some(Tier::ALL.into_iter().find(|t| t.as_str() == word)?), dated)
            }
            _ => (None, rest),
        };
        let mut words = rest.split('-').map(str::to_owned);
        let (day, time, number) = (words.next()?, words.next(), words.next());
        let well_formed = is_digits(&day, 8)
            && time.as_ref().is_none_or(|t| is_digits(t, 4))
            && number.as_ref().is_none_or(|n| n.parse::<u64>().is_ok_and(|n| n > 1))
            && words.next().is_none();
        well_formed.then_some(Self { vm, tier, day, time, number })
    }

    /// Whether it says of which VM.
    pub fn names_a_vm(&self) -> bool {
        self.vm.is_some()
    }

    /// Whether the VM of this name may be meant: always, when it does not say of which.
    pub fn fits_vm(&self, vm_name: &str) -> bool {
        self.vm.as_ref().is_none_or(|vm| {
            vm.eq_ignore_ascii_case(vm_name) || vm.eq_ignore_ascii_case(&vm_part(vm_name))
        })
    }

    /// Whether a point of that VM may be meant.
    pub fn fits(&self, name: &PointName, tiers: TierSet) -> bool {
        let Some((_, rest)) = name.as_str().rsplit_once("-backup-") else { return false };
        let mut words = rest.split('-').skip(1);
        let mut same = |wanted: Option<&String>| {
            let word = words.next();
            wanted.is_none_or(|w| Some(w.as_str()) == word)
        };
        same(Some(&self.day))
            && same(self.time.as_ref())
            && same(self.number.as_ref())
            && self.tier.is_none_or(|tier| tiers.contains(tier) || name.tier() == tier)
    }
}

fn is_digits(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(reference: &str, vm: &str, name: &str, tiers: &[Tier]) -> bool {
        let name = PointName::parse(name).unwrap();
        let reference = PointReference::parse(reference).unwrap();
        reference.fits_vm(vm) && reference.fits(&name, tiers.iter().copied().collect())
    }

    #[test]
    fn any_tier_that_the_point_carries_will_do_and_no_other() {
        let name = "db-backup-monthly-20251201-0800";
        let tiers = [Tier::Monthly, Tier::Daily];
        for (reference, expected) in [
            ("db-backup-monthly-20251201-0800", true),
            ("db-backup-daily-20251201-0800", true),
            ("DB-Backup-Daily-20251201-0800", true),
            ("db-backup-weekly-20251201-0800", false),
            ("db-backup-20251201-0800", true),
            ("db-backup-daily-20251201", true),
            ("daily-20251201", true),
            ("20251201-0800", true),
            ("20251201-0801", false),
            ("20251202", false),
            ("db-backup-daily-20251201-0800-2", false),
        ] {
            assert_eq!(fits(reference, "db", name, &tiers), expected, "{reference}");
        }
    }

    #[test]
    fn a_vm_is_never_meant_by_a_part_of_its_name() {
        let (one, ten) = ("vm1-backup-daily-20251201-0800", "vm10-backup-daily-20251201-0800");
        let daily = [Tier::Daily];
        assert!(fits("vm1-backup-daily-20251201", "vm1", one, &daily));
        assert!(!fits("vm1-backup-daily-20251201", "vm10", ten, &daily));
        assert!(!fits("vm-backup-daily-20251201", "vm1", one, &daily));
        // The last "-backup-" is ours, whatever the VM is called.
        assert!(
            PointReference::parse("a-backup-b-backup-daily-20251201")
                .unwrap()
                .fits_vm("a-backup-b")
        );
    }

    #[test]
    fn a_long_vm_name_is_meant_whole_and_as_its_points_write_it() {
        let vm = "long-name-".repeat(6) + "012a";
        let at = azdr_env::WallTime::from_unix_ms(1_764_576_000_000);
        let name = PointName::choose(&vm, Tier::Daily, at, |_| false);
        let whole = format!("{vm}-backup-daily-20251201-0800");
        for reference in [name.as_str(), &name.as_str().to_uppercase(), &whole] {
            assert!(fits(reference, &vm, name.as_str(), &[Tier::Daily]), "{reference}");
        }
        let other = vm.replace("012a", "012b");
        assert!(!fits(&whole, &other, name.as_str(), &[Tier::Daily]));
    }

    #[test]
    fn what_names_no_day_is_no_reference() {
        for text in [
            "",
            "db",
            "db-backup-",
            "-backup-daily-20251201",
            "db-backup-hourly-20251201",
            "2025120",
            "20251201-800",
            "20251201-0800-1",
            "20251201-0800-2-3",
            "daily",
            "20251201-",
        ] {
            assert_eq!(PointReference::parse(text), None, "{text:?}");
        }
    }
}
