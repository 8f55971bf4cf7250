//! What a resource costs while it lies around: an estimate, to tell a forgotten disk from a forgotten
//! fortune.
//!
//! List prices in US dollars of East US, as of [`PRICES_AS_OF`]; nothing is asked of a price list. A
//! snapshot is billed for what it really holds, which Azure tells nobody: its provisioned size is the
//! most that it can be. What is not in the table has no estimate rather than a wrong one.
//!
//! The points of a VM are a chain: the first snapshot of a disk holds everything, each later one what
//! has changed since, and what is deleted leaves its changes to the next. [`Growth`] guesses how much
//! changes; nothing else is guessed.

use std::time::Duration;

use azdr_env::WallTime;

use crate::policy::{Policy, Retention};
use crate::region::Region;

/// When the prices were looked up.
pub const PRICES_AS_OF: &str = "2026-11";

const GIB: u64 = 1 << 30;

/// Hundredths of a cent per GiB and month.
const SNAPSHOT: u64 = 500;
/// A month of prices, for what has no calendar month: a twelfth of a year.
const MONTH: Duration = Duration::from_secs(365 * 86_400 / 12);
/// Managed disks are billed by tier: the next of these sizes up (GiB).
const DISK_TIERS: [u64; 9] = [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// What is to be estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billed<'a> {
    /// An incremental snapshot of this provisioned size.
    Snapshot {
        /// Provisioned size.
        size_bytes: u64,
    },
    /// A managed disk.
    Disk {
        /// For example `Premium_LRS`.
        sku: &'a str,
        /// Provisioned size.
        size_bytes: u64,
    },
    /// A resource that costs nothing by itself: groups, networks, their interfaces and rules.
    Free,
    /// Anything else.
    Unknown,
}

/// US cents per month, rounded up; `None` when there is no price for it.
pub fn monthly_cents(billed: Billed<'_>) -> Option<u64> {
    let hundredths = match billed {
        Billed::Snapshot { size_bytes } => size_bytes.div_ceil(GIB) * SNAPSHOT,
        Billed::Disk { sku, size_bytes } => {
            let gib = size_bytes.div_ceil(GIB);
            let tier = DISK_TIERS.into_iter().find(|tier| *tier >= gib).unwrap_or(gib);
            tier * disk_price(sku)?
        }
        Billed::Free => 0,
        Billed::Unknown => return None,
    };
    Some(hundredths.div_ceil(100))
}

/// How large the disks of a VM are, and how much of them changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Provisioned size of all disks: what the first snapshots can hold at most.
    pub size_bytes: u64,
    /// Thousandths of it that change each day, at most all of it.
    pub change_per_mille: u32,
}

impl Growth {
    /// The guess for a VM of which nothing is known but its size: 2 % per day.
    pub const DEFAULT_PER_MILLE: u32 = 20;

    /// What a snapshot holds that is taken so long after the one before it.
    pub fn changed_bytes(self, gap: Duration) -> u64 {
        let changed =
            u128::from(self.size_bytes) * u128::from(self.change_per_mille) * gap.as_millis()
                / (1000 * 86_400_000);
        u64::try_from(changed).unwrap_or(u64::MAX).min(self.size_bytes)
    }

    /// What a chain of points holds together, taken at these times, oldest first.
    pub fn held_bytes(self, oldest_first: &[WallTime]) -> u64 {
        let whole = if oldest_first.is_empty() { 0 } else { self.size_bytes };
        let gaps = oldest_first.windows(2).map(|w| w[1].since(w[0]));
        gaps.fold(whole, |sum, gap| sum.saturating_add(self.changed_bytes(gap)))
    }
}

/// The price of snapshots that lie around for parts of one month.
#[derive(Debug, Clone, Copy)]
pub struct PerMonth {
    month_ms: u128,
    byte_ms: u128,
}

impl PerMonth {
    /// Nothing yet, in a month of this length.
    pub fn of(month: Duration) -> Self {
        Self { month_ms: month.as_millis().max(1), byte_ms: 0 }
    }

    /// So many bytes lay there for so long.
    pub fn add(&mut self, bytes: u64, time: Duration) {
        self.byte_ms += u128::from(bytes) * time.as_millis();
    }

    /// US cents, rounded up.
    pub fn cents(self) -> u64 {
        let hundredths = self.byte_ms * u128::from(SNAPSHOT);
        let cents = hundredths.div_ceil(100 * u128::from(GIB) * self.month_ms);
        u64::try_from(cents).unwrap_or(u64::MAX)
    }
}

/// Hundredths of a cent for carrying bytes from a region to another one.
pub fn copy_hundredths(from: &Region, bytes: u64) -> u64 {
    let hundredths = u128::from(bytes) * u128::from(copy_price(from)) / u128::from(GIB);
    u64::try_from(hundredths).unwrap_or(u64::MAX)
}

/// Hundredths of a cent per GiB that leaves a region for another one.
fn copy_price(from: &Region) -> u64 {
    let name = from.as_str();
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    if has(&["brazil", "chile"]) {
        1600
    } else if has(&["asia", "japan", "korea", "india", "australia", "zealand", "africa", "uae"]) {
        500
    } else {
        200
    }
}

/// What the backups of one VM cost in a month.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MonthlyCost {
    /// Recovery points in all regions, copies counted like points.
    pub points: u32,
    /// Billed for them, estimated.
    pub bytes: u64,
    /// Storage, US cents.
    pub storage_cents: u64,
    /// Traffic between regions, US cents.
    pub copy_cents: u64,
}

impl MonthlyCost {
    /// Storage of chains of points: one list of times per region, oldest first.
    pub fn of_chains(growth: Growth, chains: &[Vec<WallTime>]) -> Self {
        let bytes = chains.iter().map(|c| growth.held_bytes(c)).sum();
        let mut storage = PerMonth::of(MONTH);
        storage.add(bytes, MONTH);
        Self {
            points: chains.iter().map(|c| c.len() as u32).sum(),
            bytes,
            storage_cents: storage.cents(),
            copy_cents: 0,
        }
    }

    /// What it comes to when every tier is full: points of the newest days, weeks, months and years.
    pub fn when_filled(policy: &Policy, home: &Region, growth: Growth) -> Self {
        if !policy.enabled {
            return Self::default();
        }
        let times = filled_times(&policy.retention);
        let copies = usize::from(policy.target_region.is_some());
        let mut cost = Self::of_chains(growth, &vec![times; 1 + copies]);
        if copies > 0 {
            // The rarest interval at which something is taken, in days.
            let r = &policy.retention;
            let days = [(r.daily, 1), (r.weekly, 7), (r.monthly, 30), (r.yearly, 365)];
            let days = days.into_iter().find(|(count, _)| *count > 0).map_or(1, |(_, days)| days);
            let once = growth.changed_bytes(Duration::from_secs(days * 86_400));
            let month = u128::from(once) * MONTH.as_millis() / u128::from(days * 86_400_000);
            let month = u64::try_from(month).unwrap_or(u64::MAX);
            cost.copy_cents = copy_hundredths(home, month).div_ceil(100);
        }
        cost
    }

    /// Storage and traffic, US cents.
    pub const fn cents(&self) -> u64 {
        self.storage_cents.saturating_add(self.copy_cents)
    }
}

/// When the points of a full policy were taken, counted from some day, oldest first.
fn filled_times(retention: &Retention) -> Vec<WallTime> {
    let Retention { daily, weekly, monthly, yearly } = *retention;
    let tiers = [(daily, 1), (weekly, 7), (monthly, 30), (yearly, 365)];
    let mut days: Vec<i64> = tiers
        .iter()
        .flat_map(|(count, days)| (0..i64::from(*count)).map(move |n| n * days))
        .collect();
    days.sort_unstable();
    days.dedup();
    days.iter().rev().map(|n| WallTime::from_unix_ms(-n * 86_400_000)).collect()
}

/// Hundredths of a cent per GiB and month of the tier, from S6, E10 and P10.
fn disk_price(sku: &str) -> Option<u64> {
    let prices = [("Standard_", 470), ("StandardSSD_", 750), ("Premium_", 1540)];
    prices.into_iter().find(|(kind, _)| sku.starts_with(kind)).map(|(_, price)| price)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_near_the_list_prices() {
        let disk = |sku, gib: u64| monthly_cents(Billed::Disk { sku, size_bytes: gib * GIB });
        assert_eq!(disk("Standard_LRS", 64), Some(301));
        assert_eq!(disk("Premium_LRS", 128), Some(1972));
        assert_eq!(disk("StandardSSD_LRS", 128), Some(960));
        // Billed as the next tier up.
        assert_eq!(disk("Premium_LRS", 100), disk("Premium_LRS", 128));
        assert_eq!(monthly_cents(Billed::Snapshot { size_bytes: 100 * GIB }), Some(500));
        assert_eq!(monthly_cents(Billed::Free), Some(0));
    }

    #[test]
    fn a_chain_holds_everything_once_and_then_what_changed() {
        let growth = Growth { size_bytes: 100 * GIB, change_per_mille: 20 };
        let day = |n: i64| WallTime::from_unix_ms(n * 86_400_000);
        assert_eq!(growth.held_bytes(&[]), 0);
        assert_eq!(growth.held_bytes(&[day(0)]), 100 * GIB);
        assert_eq!(growth.held_bytes(&[day(0), day(1), day(8)]), (100 + 2 + 14) * GIB);
        // What is deleted in the middle leaves its changes to the next.
        assert_eq!(growth.held_bytes(&[day(0), day(8)]), (100 + 16) * GIB);
        // No snapshot holds more than the disk.
        assert_eq!(growth.held_bytes(&[day(0), day(900)]), 200 * GIB);
    }

    #[test]
    fn a_full_policy_costs_its_chain_in_each_region_and_the_copies() {
        let growth = Growth { size_bytes: 128 * GIB, change_per_mille: 20 };
        let home = Region::parse("eastus").unwrap();
        let mut policy = Policy::default();
        // 128 GiB and six times 2.56 GiB, at 5 cents.
        let weekly = MonthlyCost::when_filled(&policy, &home, growth);
        assert_eq!((weekly.points, weekly.storage_cents, weekly.copy_cents), (7, 717, 0));
        policy.target_region = Some(Region::parse("westus2").unwrap());
        let copied = MonthlyCost::when_filled(&policy, &home, growth);
        // 30.4 days of 2.56 GiB at 2 cents.
        assert_eq!((copied.points, copied.storage_cents, copied.copy_cents), (14, 1434, 156));
        policy.enabled = false;
        assert_eq!(MonthlyCost::when_filled(&policy, &home, growth).cents(), 0);
    }

    #[test]
    fn half_a_month_costs_half() {
        let day = Duration::from_secs(86_400);
        let mut cost = PerMonth::of(30 * day);
        cost.add(100 * GIB, 15 * day);
        assert_eq!(cost.cents(), 250);
    }

    #[test]
    fn what_has_no_price_here_has_no_estimate() {
        let ultra = Billed::Disk { sku: "UltraSSD_LRS", size_bytes: GIB };
        assert_eq!(monthly_cents(ultra), None);
        assert_eq!(monthly_cents(Billed::Disk { sku: "PremiumV2_LRS", size_bytes: GIB }), None);
        assert_eq!(monthly_cents(Billed::Unknown), None);
    }
}
