//! One running machine: its mounts, its writer, and whether it is frozen.

use std::time::Duration;

use azdr_env::Monotonic;

use super::ledger::{DATA, Ledger, WAL};
use super::tree::Tree;

/// The writer takes this long to write a record into the log, and as long to write it into the data.
const STEP: Duration = Duration::from_millis(10);

/// Steps that the writer gets done at the least between two looks at its disks, so that copies that
/// were made one after the other are never from one instant by chance.
const STEPS_BETWEEN_LOOKS: u64 = 4;

/// A machine that has come up.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) boot_id: String,
    /// LUN and content: the OS disk first, then data disks by LUN.
    pub(super) disks: Vec<(Option<u32>, String)>,
    pub(super) frozen: Option<Monotonic>,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    wal: Ledger,
    data: Ledger,
    /// Two for each record.
    steps: u64,
    /// Up to when those steps were.
    since: Monotonic,
}

/// Where a path of the machine is.
pub(super) fn mount_point(lun: Option<u32>) -> String {
    lun.map_or_else(|| "/".to_owned(), |lun| format!("/mnt/lun{lun}"))
}

impl Machine {
    /// Boots. The writer first brings the data up to the log, and does not begin at all on disks that
    /// do not belong together.
    pub(super) fn boot(
        name: &str,
        boot_id: String,
        disks: Vec<(Option<u32>, String)>,
        now: Monotonic,
        tree: impl Fn(&str) -> Tree,
    ) -> Self {
        let mut machine =
            Self { name: name.to_owned(), boot_id, disks, frozen: None, writer: None };
        let (log, data) = machine.ledger_disks();
        let (log, data) = (tree(log), tree(data));
        let torn = matches!(super::check([&log, &data]), super::Consistency::Torn { .. });
        if let (false, Some(wal), Some(_)) =
            (torn, Ledger::read(&log, WAL), Ledger::read(&data, DATA))
        {
            let (steps, data) = (2 * wal.last(), wal.clone());
            machine.writer = Some(Writer { wal, data, steps, since: now });
        }
        machine
    }

    /// The contents that the log and the data are on.
    pub(super) fn ledger_disks(&self) -> (&str, &str) {
        let first = self.disks.first().map_or("", |(_, name)| name);
        let last = self.disks.iter().max_by_key(|(lun, _)| *lun).map_or("", |(_, name)| name);
        (first, last)
    }

    /// Whether its writer found the disks torn.
    pub(super) fn found_torn(&self) -> bool {
        self.writer.is_none()
    }

    /// Lets the writer write what it has written by `now`; what the log and the data hold then.
    pub(super) fn settle(&mut self, now: Monotonic) -> Option<(&Ledger, &Ledger)> {
        let writer = self.writer.as_mut()?;
        if self.frozen.is_none() {
            let steps = now.since(writer.since).as_millis() / STEP.as_millis();
            let steps = u64::try_from(steps).unwrap_or(0);
            writer.since = writer.since.plus(STEP * u32::try_from(steps).unwrap_or(u32::MAX));
            writer.steps += steps;
        }
        writer.write(&self.boot_id);
        Some((&writer.wal, &writer.data))
    }

    /// As [`settle`](Self::settle), after somebody has looked.
    pub(super) fn looked_at(&mut self) {
        if let (None, Some(writer)) = (self.frozen, &mut self.writer) {
            writer.steps += STEPS_BETWEEN_LOOKS;
        }
    }

    /// The writer goes on from here.
    pub(super) fn thawed(&mut self, now: Monotonic) {
        self.frozen = None;
        if let Some(writer) = &mut self.writer {
            writer.since = now;
        }
    }

    /// The content and the path within it.
    pub(super) fn resolve<'p>(&self, path: &'p str) -> Option<(&str, &'p str)> {
        let within = |(lun, name): &'_ (Option<u32>, String)| {
            let rest = match lun {
                Some(_) => path.strip_prefix(mount_point(*lun).as_str())?,
                None => path,
            };
            rest.starts_with('/').then(|| (name.clone(), rest))
        };
        let place = self.disks.iter().rposition(|disk| within(disk).is_some())?;
        let (_, rest) = within(&self.disks[place])?;
        Some((self.disks[place].1.as_str(), rest))
    }
}

impl Writer {
    fn write(&mut self, boot_id: &str) {
        self.wal.append(boot_id, self.steps.div_ceil(2));
        self.data.append(boot_id, self.steps / 2);
    }
}
