//! Lock keys for people: `chain:westus2:/subscriptions/…/db-os` is *disk chain db-os → westus2*.

/// What a lock key stands for. An unknown kind is shown as it is.
pub(super) fn words(key: &str) -> String {
    let Some((kind, rest)) = key.split_once(':') else { return key.to_owned() };
    let name = |id: &str| id.rsplit('/').next().unwrap_or(id).to_owned();
    match kind {
        "vm" => format!("VM {}", name(rest)),
        "point" => format!("recovery point {}", name(rest)),
        "whole-disks" => format!("place {rest} of those that hash whole disks"),
        "prune" => format!("pruning of {}", name(rest)),
        "chain" | "disk-chain" => match rest.split_once(':') {
            Some((region, id)) => format!("disk chain {} → {region}", name(id)),
            None => format!("disk chain {}", name(rest)),
        },
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn locks_are_shown_in_words() {
        for (key, expected) in [
            ("vm:/subscriptions/1/resourcegroups/prod/providers/x/virtualmachines/db", "VM db"),
            ("chain:westus2:/subscriptions/1/providers/disks/db-os", "disk chain db-os → westus2"),
            ("prune:/subscriptions/1/virtualmachines/db", "pruning of db"),
            ("point:db-backup-daily-20260101-0000", "recovery point db-backup-daily-20260101-0000"),
            ("whole-disks:2", "place 2 of those that hash whole disks"),
            ("new-kind:x", "new-kind:x"),
            ("bare", "bare"),
        ] {
            assert_eq!(words(key), expected);
        }
    }
}
