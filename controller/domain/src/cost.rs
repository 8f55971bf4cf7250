//! What a resource costs while it lies around: an estimate, to tell a forgotten disk from a forgotten
//! fortune.
//!
//! List prices in US dollars of East US, as of [`PRICES_AS_OF`]; nothing is asked of a price list. A
//! snapshot is billed for what it really holds, which Azure tells nobody: its provisioned size is the
//! most that it can be. What is not in the table has no estimate rather than a wrong one.

/// When the prices were looked up.
pub const PRICES_AS_OF: &str = "2026-11";

const GIB: u64 = 1 << 30;

/// Hundredths of a cent per GiB and month.
const SNAPSHOT: u64 = 500;
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
    fn what_has_no_price_here_has_no_estimate() {
        let ultra = Billed::Disk { sku: "UltraSSD_LRS", size_bytes: GIB };
        assert_eq!(monthly_cents(ultra), None);
        assert_eq!(monthly_cents(Billed::Disk { sku: "PremiumV2_LRS", size_bytes: GIB }), None);
        assert_eq!(monthly_cents(Billed::Unknown), None);
    }
}
