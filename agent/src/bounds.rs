//! How much of a machine is told: whatever there is on it, an answer has an end.

/// Entries of a list of what is not frozen, with the one that stands for what is left out.
pub(crate) const MOST_NOT_FROZEN: usize = 128;
/// Disks of a file system: an OS disk and the most data disks of a VM.
pub(crate) const MOST_DISKS: usize = 65;
/// Bytes of a text.
pub(crate) const LONGEST: usize = 512;

/// Leaves the first entries, and says with a last one how many others there are.
pub(crate) fn shorten<T>(all: &mut Vec<T>, most: usize, others: impl FnOnce(usize) -> T) {
    if all.len() > most {
        let left_out = all.len() - (most - 1);
        all.truncate(most - 1);
        all.push(others(left_out));
    }
}

/// What stands for entries that are left out: what, and why.
pub(crate) fn others(count: usize) -> (String, String) {
    let reason = format!("not listed: more than {MOST_NOT_FROZEN} are not frozen");
    (format!("{count} others"), reason)
}

/// The begin of a text.
pub(crate) fn clip(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let of = |count: u32| {
            let mut all: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            shorten(&mut all, 3, |count| others(count).0);
            all
        };
        assert_eq!(of(3), ["0", "1", "2"]);
        assert_eq!(of(4), ["0", "1", "2 others"]);
        assert_eq!(of(1_000), ["0", "1", "998 others"]);
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(clip("x".repeat(LONGEST)), "x".repeat(LONGEST));
        let cut = clip("é".repeat(LONGEST));
        assert!(cut.len() <= LONGEST && cut.ends_with("é…"), "{cut}");
    }
}
