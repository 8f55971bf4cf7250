//! Named policies: apply, follow, and who is covered by what.

use std::collections::{BTreeMap, BTreeSet};

use azdr_domain::policy::Policy;
use azdr_domain::region::Region;
use azdr_domain::selection::{Decision, NamedPolicy, PolicyName, Selector, decide};
use azdr_proto::admin as api;
use azdr_proto::admin::{
    ApplyPoliciesRequest, ApplyPoliciesResponse, BackupConfig, FollowPoliciesRequest,
    ListPoliciesResponse, NamedPolicyChange, NamedPolicyChangeKind, UncoveredVm, VmPolicyChange,
    VmPolicyChangeKind,
};
use tonic::Status;

use super::Admin;
use super::errors::{hinted, unavailable};
use super::forecasts::PolicyChanged;
use super::policies::change;
use crate::reconcile::inventory::{is_made_by_azdr, seen};
use crate::store::{Item, PolicyRow, VmSeen};

/// The most named policies of one request.
const MAX_POLICIES: usize = 100;
/// So many VMs are named in an error.
const NAMED_IN_ERRORS: usize = 5;

impl Admin {
    pub(super) async fn apply(
        &self,
        by: String,
        request: ApplyPoliciesRequest,
    ) -> Result<ApplyPoliciesResponse, Status> {
        let wanted = parse(&request.policies)?;
        let targets: BTreeSet<_> =
            wanted.values().filter_map(|p| p.policy.target_region.as_ref()).collect();
        for target in targets {
            self.check_region(target).await?;
        }
        let present = self.store.named_policies().await.map_err(unavailable)?;
        let (changes, next) = changes(&present, &wanted, request.prune);
        let vms: Vec<VmSeen> = self.azure_vms().await?.iter().filter_map(seen).collect();
        let rows: BTreeMap<String, (Item, PolicyRow)> = self
            .store
            .policies()
            .await
            .map_err(unavailable)?
            .into_iter()
            .map(|(item, row)| (item.arm_id.key().to_owned(), (item, row)))
            .collect();
        let decided: Vec<(&VmSeen, Decision<'_>)> = vms
            .iter()
            .map(|vm| {
                let row = rows.get(vm.id.key()).map(|(_, row)| row);
                (vm, decide(&next, &vm.id, &vm.tags, &vm.region, PolicyRow::present(row)))
            })
            .collect();
        refuse_ties(&decided, &wanted)?;
        let mut answer = ApplyPoliciesResponse {
            policies: changes,
            vms: vec![],
            dry_run: request.dry_run,
            deletions_held: self.why_held().await?,
        };
        let mut changed = BTreeMap::new();
        let items = self.store.items().await.map_err(unavailable)?;
        let items: BTreeMap<&str, &Item> = items.iter().map(|i| (i.arm_id.key(), i)).collect();
        for (vm, decision) in &decided {
            if let (Decision::Enrol(p) | Decision::Change(p), Some(item)) =
                (decision, items.get(vm.id.key()))
            {
                let home = Region::parse(&item.location);
                let before = rows.get(vm.id.key()).map(|(_, row)| row.policy.clone());
                let of_vm = PolicyChanged {
                    vm: item.arm_id.clone(),
                    home: home.map_err(|e| Status::internal(e.to_string()))?,
                    before,
                    after: p.policy.clone(),
                };
                changed.insert(item.id, of_vm);
            }
        }
        let mut at_once = self.at_once(changed).await?;
        for (vm, decision) in &decided {
            if let Some(mut change) = vm_change(vm, decision) {
                let item = items.get(vm.id.key());
                change.at_once = item.and_then(|item| at_once.remove(&item.id)).unwrap_or_default();
                answer.vms.push(change);
            }
        }
        answer.vms.sort_by_key(|vm| vm.vm_resource_id.to_lowercase());
        if !request.dry_run {
            let now = self.env.clock.wall();
            let removed = present.iter().map(|p| p.name.clone());
            let removed = removed.filter(|name| next.iter().all(|p| p.name != *name)).collect();
            let set = wanted.into_values().collect();
            let stored = self.store.set_named_policies(set, removed, by, now).await;
            stored.map_err(unavailable)?;
            // What is not done here after a crash is done by the next inventory.
            self.store.follow_selectors(vms, now).await.map_err(unavailable)?;
            self.inventory.policies_changed.notify_one();
        }
        Ok(answer)
    }

    pub(super) async fn follow(
        &self,
        request: FollowPoliciesRequest,
    ) -> Result<BackupConfig, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let vm = named.in_azure("only a VM that exists can follow a selector")?;
        let name = named.id.name();
        let seen = seen(vm).ok_or_else(|| {
            Status::failed_precondition(format!(
                "{name} was made by azdr: no selector applies to it"
            ))
        })?;
        let handed = self.store.hand_over(seen, self.env.clock.wall()).await;
        let id = handed.map_err(|e| {
            let status = unavailable(e);
            hinted(status.code(), status.message(), "see `azdr policy list`")
        })?;
        self.inventory.policies_changed.notify_one();
        let item = self.store.item_by_id(id).await.map_err(unavailable)?;
        self.config_of(&item).await
    }

    pub(super) async fn all_policies(&self) -> Result<ListPoliciesResponse, Status> {
        let rows = self.store.policies().await.map_err(unavailable)?;
        let mut answer = ListPoliciesResponse {
            policies: self.all_configs(&rows).await?,
            ..ListPoliciesResponse::default()
        };
        let named = self.store.named_policies().await.map_err(unavailable)?;
        match self.azure_vms().await {
            Ok(vms) => {
                let covered: BTreeSet<&str> = rows.iter().map(|(i, _)| i.arm_id.key()).collect();
                answer.uncovered = vms
                    .iter()
                    .filter(|vm| vm.id.as_ref().is_some_and(|id| !covered.contains(id.key())))
                    .filter_map(|vm| uncovered(vm, &named))
                    .collect();
                answer.uncovered.sort_by_key(|vm| vm.vm_resource_id.to_lowercase());
            }
            Err(e) => e.message().clone_into(&mut answer.uncovered_unknown),
        }
        answer.named = named
            .iter()
            .map(|p| {
                let from = rows.iter().filter(|(_, row)| row.origin.as_ref() == Some(&p.name));
                shown(p, from.count() as u32)
            })
            .collect();
        Ok(answer)
    }
}

/// The policies of a request, checked, by name.
fn parse(given: &[api::NamedPolicy]) -> Result<BTreeMap<PolicyName, NamedPolicy>, Status> {
    let refuse = |words: String| Err(Status::invalid_argument(words));
    if given.len() > MAX_POLICIES {
        return refuse(format!("{} policies: at most {MAX_POLICIES} are allowed", given.len()));
    }
    let mut wanted = BTreeMap::new();
    for p in given {
        let name: PolicyName =
            p.name.parse().map_err(|e| Status::invalid_argument(format!("policies: {e}")))?;
        let of_it =
            |e: azdr_domain::PolicyError| Status::invalid_argument(format!("policy {name}: {e}"));
        let select = p.select.clone().unwrap_or_default();
        let group = Some(select.resource_group).filter(|group| !group.is_empty());
        let tags = select.tags.into_iter().collect();
        let select = Selector::new(group, tags).map_err(of_it)?;
        let policy = change(&p.policy.clone().unwrap_or_default());
        let policy = Policy::default().apply_anywhere(&policy).map_err(of_it)?;
        let named = NamedPolicy { name: name.clone(), select, policy };
        if wanted.insert(name.clone(), named).is_some() {
            return refuse(format!("policy {name} is given twice"));
        }
    }
    Ok(wanted)
}

/// What becomes of each named policy, and which there are afterwards; both by name.
fn changes(
    present: &[NamedPolicy],
    wanted: &BTreeMap<PolicyName, NamedPolicy>,
    prune: bool,
) -> (Vec<NamedPolicyChange>, Vec<NamedPolicy>) {
    let present: BTreeMap<&PolicyName, &NamedPolicy> =
        present.iter().map(|p| (&p.name, p)).collect();
    let names: BTreeSet<&PolicyName> = present.keys().copied().chain(wanted.keys()).collect();
    let (mut changes, mut next) = (vec![], vec![]);
    for name in names {
        let (kind, p) = match (present.get(name), wanted.get(name)) {
            (None, Some(new)) => (NamedPolicyChangeKind::New, new),
            (Some(old), Some(new)) if *old == new => (NamedPolicyChangeKind::Unchanged, new),
            (Some(_), Some(new)) => (NamedPolicyChangeKind::Changed, new),
            (Some(old), None) if prune => (NamedPolicyChangeKind::Removed, *old),
            // It stays, and is not spoken of.
            (Some(old), None) => {
                next.push((*old).clone());
                continue;
            }
            (None, None) => continue,
        };
        if kind != NamedPolicyChangeKind::Removed {
            next.push(p.clone());
        }
        changes.push(NamedPolicyChange {
            name: name.to_string(),
            kind: kind.into(),
            select: p.select.to_string(),
        });
    }
    (changes, next)
}

/// Two policies for one VM are refused where one of them is being set: then it is not there yet.
fn refuse_ties(
    decided: &[(&VmSeen, Decision<'_>)],
    wanted: &BTreeMap<PolicyName, NamedPolicy>,
) -> Result<(), Status> {
    let ties: Vec<String> = decided
        .iter()
        .filter_map(|(vm, decision)| match decision {
            Decision::Tie(names) if names.iter().any(|name| wanted.contains_key(*name)) => {
                Some(format!("{}: {decision}", vm.id.name()))
            }
            _ => None,
        })
        .collect();
    if ties.is_empty() {
        return Ok(());
    }
    let more = match ties.len().saturating_sub(NAMED_IN_ERRORS) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let first: Vec<String> = ties.into_iter().take(NAMED_IN_ERRORS).collect();
    Err(hinted(
        tonic::Code::InvalidArgument,
        format!("two policies match one VM: {}{more}", first.join("; ")),
        "give one of them another condition: the policy with the most conditions wins",
    ))
}

/// What becomes of one VM, if it has to do with selectors.
fn vm_change(vm: &VmSeen, decision: &Decision<'_>) -> Option<VmPolicyChange> {
    let (kind, policy) = match decision {
        Decision::NotCovered | Decision::ByHand { instead_of: None } => return None,
        Decision::Enrol(p) => (VmPolicyChangeKind::Enrolled, p.name.to_string()),
        Decision::Change(p) => (VmPolicyChangeKind::Changed, p.name.to_string()),
        Decision::Same(name) => (VmPolicyChangeKind::Unchanged, name.to_string()),
        Decision::ByHand { instead_of: Some(name) } => {
            (VmPolicyChangeKind::ByHand, name.to_string())
        }
        Decision::NoLongerMatches { by } => (VmPolicyChangeKind::Kept, by.to_string()),
        Decision::Unfit { by, .. } => (VmPolicyChangeKind::Unfit, by.to_string()),
        Decision::Tie(_) => (VmPolicyChangeKind::Tied, String::new()),
    };
    Some(VmPolicyChange {
        vm_resource_id: vm.id.to_string(),
        vm_name: vm.id.name().to_owned(),
        kind: kind.into(),
        policy,
        reason: decision.to_string(),
        at_once: vec![],
    })
}

/// A VM without a policy, and why no selector gives it one.
fn uncovered(vm: &azdr_arm::Vm, named: &[NamedPolicy]) -> Option<UncoveredVm> {
    let id = vm.id.as_ref()?;
    let reason = match seen(vm) {
        _ if is_made_by_azdr(vm) => "azdr has made it: no selector is asked".to_owned(),
        None => "Azure does not say where it is".to_owned(),
        Some(seen) => {
            let present = azdr_domain::Present::Nothing;
            match decide(named, &seen.id, &seen.tags, &seen.region, present) {
                Decision::Enrol(p) => format!("it gets {} with the next inventory", p.name),
                decision => decision.to_string(),
            }
        }
    };
    Some(UncoveredVm {
        vm_resource_id: id.to_string(),
        vm_name: id.name().to_owned(),
        resource_group: id.resource_group().to_owned(),
        location: vm.location.clone().unwrap_or_default(),
        reason,
    })
}

/// A named policy as it is stored.
fn shown(p: &NamedPolicy, vms: u32) -> api::NamedPolicy {
    let policy = &p.policy;
    let secs = |span: Option<azdr_domain::Interval>| Some(span.map_or(0, |s| s.as_secs()));
    api::NamedPolicy {
        name: p.name.to_string(),
        select: Some(api::VmSelector {
            resource_group: p.select.resource_group().unwrap_or_default().to_owned(),
            tags: p.select.tags().clone().into_iter().collect(),
        }),
        policy: Some(api::ConfigureBackupRequest {
            vm: None,
            daily_retention: Some(policy.retention.daily),
            weekly_retention: Some(policy.retention.weekly),
            monthly_retention: Some(policy.retention.monthly),
            yearly_retention: Some(policy.retention.yearly),
            cross_region: Some(policy.target_region.is_some()),
            target_region: policy.target_region.as_ref().map(ToString::to_string),
            schedule_time: Some(policy.schedule.time.to_string()),
            time_zone: Some(policy.schedule.time_zone.to_string()),
            consistency: Some(super::policies::demand(policy.consistency).into()),
            rpo_secs: secs(policy.rpo),
            rto_secs: secs(policy.rto),
            verify_every_secs: secs(policy.verify_every),
            drill_every_secs: secs(policy.drill_every),
        }),
        vms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, daily: u32) -> api::NamedPolicy {
        api::NamedPolicy {
            name: name.to_owned(),
            select: Some(api::VmSelector {
                resource_group: "prod".to_owned(),
                ..api::VmSelector::default()
            }),
            policy: Some(api::ConfigureBackupRequest {
                daily_retention: Some(daily),
                ..api::ConfigureBackupRequest::default()
            }),
            vms: 0,
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_policy_field_value_and_rule() {
        let mut nowhere = named("gold", 7);
        nowhere.select = None;
        let mut tagged = named("gold", 7);
        tagged.select.as_mut().unwrap().tags.insert("a\u{0}".to_owned(), "x".to_owned());
        let many: Vec<_> = (0..101).map(|n| named(&format!("p{n}"), 7)).collect();
        for (given, words) in [
            (vec![named("Gold", 7)], "name cannot be \"Gold\": it must be 1 to 63 lower-case"),
            (vec![named("go\u{202e}ld", 7)], "lower-case letters"),
            (vec![named("gold", 9999)], "policy gold: daily_retention cannot be \"9999\": it must"),
            (vec![named("gold", 7), named("gold", 8)], "policy gold is given twice"),
            (vec![nowhere], "policy gold: select cannot be \"\": give a resource_group"),
            (vec![tagged], "policy gold: tags cannot be"),
            (many, "101 policies: at most 100"),
        ] {
            let e = parse(&given).unwrap_err();
            assert_eq!(e.code(), tonic::Code::InvalidArgument);
            assert!(e.message().contains(words), "{}", e.message());
        }
    }

    #[test]
    fn what_is_not_given_stays_unless_it_is_pruned() {
        let stored: Vec<NamedPolicy> =
            parse(&[named("a", 1), named("b", 2)]).unwrap().into_values().collect();
        let wanted = parse(&[named("b", 3), named("c", 4)]).unwrap();
        let of = |prune| {
            let (changes, next) = changes(&stored, &wanted, prune);
            let kinds: Vec<_> = changes.iter().map(|c| (c.name.clone(), c.kind())).collect();
            let next: Vec<_> = next.iter().map(|p| p.name.to_string()).collect();
            (kinds, next)
        };
        let (kinds, next) = of(false);
        assert_eq!(next, ["a", "b", "c"]);
        assert_eq!(kinds[0], ("b".to_owned(), NamedPolicyChangeKind::Changed));
        let (kinds, next) = of(true);
        assert_eq!(next, ["b", "c"]);
        assert_eq!(kinds[0], ("a".to_owned(), NamedPolicyChangeKind::Removed));
        assert_eq!(kinds[2], ("c".to_owned(), NamedPolicyChangeKind::New));
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_policy() {
        let mut given = named("gold", 3);
        let policy = given.policy.as_mut().unwrap();
        policy.target_region = Some("westus2".to_owned());
        policy.schedule_time = Some("daily 04:15".to_owned());
        policy.verify_every_secs = Some(604_800);
        let parsed = parse(&[given]).unwrap();
        let again = parse(&[shown(&parsed.values().next().unwrap().clone(), 0)]).unwrap();
        assert_eq!(parsed, again);
    }
}
