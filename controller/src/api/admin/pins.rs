//! Pins: people's holds on recovery points.

use azdr_domain::pin::{Pin, REASON_LIMIT};
use azdr_env::WallTime;
use azdr_proto::admin::{PinPointRequest, RecoveryPoint, UnpinPointRequest, VmRef};
use tonic::{Code, Status};

use super::Admin;
use super::authorise::Role;
use super::convert;
use super::errors::{hinted, unavailable};
use super::reason::reason;
use crate::mutation::{Mutation, planted};
use crate::store::{Item, OperatorRow};

impl Admin {
    pub(super) async fn pin(
        &self,
        by: String,
        request: PinPointRequest,
    ) -> Result<RecoveryPoint, Status> {
        let now = self.env.clock.wall();
        let until = match (request.until_unix_ms, request.forever) {
            (0, true) => None,
            (ms, false) if ms > now.unix_ms() => Some(WallTime::from_unix_ms(ms)),
            (0, false) => {
                return Err(Status::invalid_argument("until when? give a time, or for ever"));
            }
            (_, true) => return Err(Status::invalid_argument("until a time and for ever")),
            (ms, false) => {
                let at = WallTime::from_unix_ms(ms);
                return Err(Status::invalid_argument(format!("until cannot be {at}: it is past")));
            }
        };
        let reason = reason("a pin", &request.reason, REASON_LIMIT)?;
        let (point, item) = self.find_point(&request.recovery_point, request.vm.as_ref()).await?;
        let pin = Pin { owner: by, since: now, until, reason };
        if planted(Mutation::AnswerBeforeCommit) && self.env.ids.u64().is_multiple_of(4) {
            return self.shown(&item, point.name.as_str()).await;
        }
        self.store.pin(item.id, point.name.clone(), pin).await.map_err(unavailable)?;
        self.pins_changed.notify_one();
        self.shown(&item, point.name.as_str()).await
    }

    pub(super) async fn unpin(
        &self,
        by: OperatorRow,
        request: UnpinPointRequest,
    ) -> Result<RecoveryPoint, Status> {
        let owner = match request.owner.as_str() {
            "" => by.name.clone(),
            owner => owner.to_owned(),
        };
        if owner != by.name && Role::of(&by).is_none_or(|role| role < Role::Admin) {
            return Err(hinted(
                Code::PermissionDenied,
                format!(
                    "operator {} is {}; removing {owner}'s pin needs role admin",
                    by.name, by.role
                ),
                &format!("ask {owner} or an admin"),
            ));
        }
        let (point, item) = self.find_point(&request.recovery_point, request.vm.as_ref()).await?;
        let removed = self
            .store
            .unpin(item.id, point.name.clone(), owner.clone())
            .await
            .map_err(unavailable)?;
        if !removed {
            let others: Vec<_> = point.pins.iter().map(|p| p.owner.as_str()).collect();
            let hint = match others.is_empty() {
                true => "nobody has pinned it".to_owned(),
                false => format!("it is pinned by {}: name one with --owner", others.join(", ")),
            };
            let message = format!("{} has no pin of {owner}", point.name);
            return Err(hinted(Code::NotFound, message, &hint));
        }
        self.pins_changed.notify_one();
        self.shown(&item, point.name.as_str()).await
    }

    async fn shown(&self, item: &Item, name: &str) -> Result<RecoveryPoint, Status> {
        let vm = VmRef { name: item.arm_id.to_string(), resource_group: String::new() };
        let (point, item) = self.find_point(name, Some(&vm)).await?;
        Ok(convert::point(&point, &item, self.env.clock.wall(), |r| self.copied(r)))
    }
}
