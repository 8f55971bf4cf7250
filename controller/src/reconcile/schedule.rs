//! Starts backups that are due. A VM that is gone from Azure is passed over until it is back; then what
//! was missed is made up once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use azdr_domain::policy::{Policy, ZoneName};
use azdr_domain::schedule::{self, History};
use azdr_env::WallTime;

use super::{Quiet, Reconciler};
use crate::mutation::{Mutation, planted};
use crate::store::{Item, ItemId, PolicyRow, RunId, StoreError};
use crate::workflows::{backup, new_run};

/// Backups of one time are spread over this long, each VM always at its own moment.
pub(crate) const JITTER: Duration = Duration::from_secs(15 * 60);

/// What was found when each VM was last looked at. Whether a backup is due changes only with the
/// policy, with a backup, and when the next scheduled time comes; until then nothing is read again.
/// Forgetting all of it costs time and changes nothing.
#[derive(Default)]
pub(super) struct Looked {
    found: BTreeMap<ItemId, Found>,
    quiet: Quiet,
    /// While it is quiet: the last look's time, and when the next scheduled time of any VM comes.
    span: Option<Range<WallTime>>,
}

struct Found {
    policy: Policy,
    last_backup: Option<RunId>,
    at: WallTime,
    good_until: WallTime,
}

impl Found {
    fn is_good(&self, policy: &Policy, last_backup: Option<RunId>, now: WallTime) -> bool {
        // A clock that was set back is no reason to wait for the time that it had.
        (self.at..self.good_until).contains(&now)
            && self.last_backup == last_backup
            && self.policy == *policy
    }
}

impl Reconciler {
    /// Starts one backup for every VM that is due and has none in flight.
    pub(super) async fn start_due_backups(&self, looked: &mut Looked) -> Result<(), StoreError> {
        let (commits, now) = (self.store.commits(), self.env.clock.wall());
        let good = looked.span.as_ref().is_some_and(|span| span.contains(&now));
        if good && looked.quiet.lasts(&self.store) {
            return Ok(());
        }
        looked.quiet.after(commits, false);
        let mut until = WallTime::from_unix_ms(i64::MAX);
        for (item, row) in self.store.enabled_policies().await? {
            until = until.min(self.start_if_due(item, row, looked).await?.unwrap_or(until));
        }
        looked.span = Some(now..until);
        looked.quiet.after(commits, true);
        Ok(())
    }

    /// Answers until when nothing can become due but by a write to the store, if that is known.
    async fn start_if_due(
        &self,
        item: Item,
        mut row: PolicyRow,
        looked: &mut Looked,
    ) -> Result<Option<WallTime>, StoreError> {
        if row.gone.is_some() && !planted(Mutation::GoneBackedUp) {
            // That it is back is a write.
            return Ok(Some(WallTime::from_unix_ms(i64::MAX)));
        }
        let now = self.env.clock.wall();
        let last_backup = match self.store.latest_run(item.id, backup::RUN.0).await? {
            Some((_, state)) if !state.is_terminal() => return Ok(None),
            found => found.map(|(id, _)| id),
        };
        if let Some(found) = looked.found.get(&item.id)
            && found.is_good(&row.policy, last_backup, now)
        {
            return Ok(Some(found.good_until));
        }
        // A start after now is of a clock that was ahead: it must not silence the VM.
        let mut last_run = self.store.last_asked_for(item.id, backup::RUN.0, now).await?;
        if planted(Mutation::ScheduleForgets) {
            last_run = None;
        }
        let successes = self.store.point_tiers(item.id).await?;
        let history = History { enabled_since: row.enabled_since, last_run, successes: &successes };
        let jitter = schedule::jitter(&item.arm_id, JITTER);
        if planted(Mutation::ZoneIgnored) {
            row.policy.schedule.time_zone = ZoneName::utc();
        }
        let Some(due) = schedule::due(&row.policy, &history, jitter, now) else {
            let good_until = schedule::next_due(&row.policy, now.minus(jitter)).plus(jitter);
            let found = Found { policy: row.policy, last_backup, at: now, good_until };
            looked.found.insert(item.id, found);
            return Ok(Some(good_until));
        };
        tracing::info!(vm = %item.arm_id, scheduled_for = %due.scheduled_for, late = due.late,
            "a backup is due");
        let by = if due.late { "schedule (late)" } else { "schedule" };
        let input = backup::Input { item: item.id, vm: item.arm_id, tier: None };
        // Which is a write.
        self.engine.submit(new_run(backup::RUN, &input, item.id, by)).await?;
        Ok(None)
    }
}
