//! From a path to what handles it.

use azdr_env::WallTime;
use http::Method;

use super::reply::Reply;
use super::request::ArmRequest;
use super::{sas, versions};
use crate::content::Contents;
use crate::signing::Signer;
use crate::world::{ArmError, ArmId, Injected, Intent, Kind, World};

/// A request and the locked world that it meets.
pub(crate) struct Scope<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) request: &'a ArmRequest,
    pub(crate) injected: &'a Injected,
    pub(crate) signer: &'a Signer,
    pub(crate) contents: &'a dyn Contents,
    pub(crate) now: WallTime,
    pub(crate) api_version: String,
}

/// Answers a request.
pub(crate) fn route(mut scope: Scope<'_>) -> Reply {
    let reply = scope.dispatch();
    reply.unwrap_or_else(|error| {
        let ArmRequest { method, path, .. } = scope.request;
        tracing::debug!(%method, path, %error, "refused");
        error.into()
    })
}

impl Scope<'_> {
    fn dispatch(&mut self) -> Result<Reply, ArmError> {
        let request = self.request;
        let lower: Vec<&str> = request.lower.iter().map(String::as_str).collect();
        if lower.first() == Some(&"sas") {
            return Ok(sas::read(self));
        }
        if let Some(reply) = self.public(&lower) {
            return reply;
        }
        self.check_token()?;
        self.check_subscription(&lower)?;
        self.check_rights()?;
        self.check_locked(&lower)?;
        if let Some(reply) = self.scoped(&lower) {
            return reply;
        }
        let text = |n: usize| request.segments[n].as_str();
        match lower[..] {
            ["subscriptions"] => self.resources_api(Self::subscriptions),
            ["tenants"] => self.resources_api(Self::tenants),
            ["subscriptions", _] => {
                self.resources_api(|s| Ok(Reply::json(200, s.subscription(text(1)))))
            }
            ["subscriptions", _, "locations"] => self.resources_api(Self::locations),
            ["subscriptions", _, "resources"] => self.resources_api(|s| s.resources(text(1), None)),
            ["subscriptions", _, "resourcegroups"] => self.resources_api(|s| s.groups(text(1))),
            ["subscriptions", _, "resourcegroups", _] => {
                self.resources_api(|s| s.one_group(text(1), text(3)))
            }
            ["subscriptions", _, "resourcegroups", _, "resources"] => {
                self.resources_api(|s| s.resources(text(1), Some(text(3))))
            }
            ["subscriptions", _, "operationresults", _] => {
                self.resources_api(|s| s.poll_job(text(3)))
            }
            ["subscriptions", _, "providers", namespace] => {
                self.resources_api(|s| s.provider(namespace))
            }
            ["subscriptions", _, "providers", namespace, collection] => {
                self.collection(None, namespace, collection)
            }
            ["subscriptions", _, "providers", namespace, "locations", _, collection, _] => {
                self.api_version = versions::check(request, namespace, collection)?.to_owned();
                match collection {
                    "diskoperations" | "operations" => self.poll(text(7), false),
                    "operationresults" => self.poll(text(7), true),
                    _ => Err(self.unknown()),
                }
            }
            ["subscriptions", _, "resourcegroups", _, "providers", namespace, collection] => {
                self.collection(Some(text(3)), namespace, collection)
            }
            ["subscriptions", _, "resourcegroups", _, "providers", namespace, collection, ..] => {
                self.resource(namespace, collection)
            }
            _ => Err(self.unknown()),
        }
    }

    fn resources_api(
        &mut self,
        handle: impl FnOnce(&mut Self) -> Result<Reply, ArmError>,
    ) -> Result<Reply, ArmError> {
        self.api_version =
            versions::check(self.request, "microsoft.resources", "subscriptions")?.to_owned();
        handle(self)
    }

    fn collection(
        &mut self,
        group: Option<&str>,
        namespace: &str,
        collection: &str,
    ) -> Result<Reply, ArmError> {
        self.api_version = versions::check(self.request, namespace, collection)?.to_owned();
        let kind = Kind::of_type(namespace, collection).ok_or_else(|| self.unknown())?;
        if self.request.method != Method::GET {
            return Err(self.method_not_allowed());
        }
        let subscription = &self.request.segments[1];
        let prefix = match group {
            Some(group) => {
                self.world.state.group(subscription, group)?;
                ArmId::prefix(subscription, group, kind)
            }
            None => format!("/subscriptions/{subscription}/").to_lowercase(),
        };
        Ok(match kind {
            Kind::Disk | Kind::Snapshot => self.list_disks(kind, &prefix),
            Kind::Vm => self.list_vms(&prefix),
            _ => self.list_networks(kind, &prefix),
        })
    }

    fn resource(&mut self, namespace: &str, collection: &str) -> Result<Reply, ArmError> {
        let request = self.request;
        self.api_version = versions::check(request, namespace, collection)?.to_owned();
        let kind = Kind::of_type(namespace, collection).ok_or_else(|| self.unknown())?;
        let id = ArmId::new(&request.segments[1], &request.segments[3], kind, &request.segments[7]);
        if request.method != Method::DELETE {
            self.world.state.group(&id.subscription, &id.group)?;
        } else if self.world.state.group(&id.subscription, &id.group).is_err() {
            return Ok(Reply::empty(204));
        }
        let rest: Vec<&str> = request.lower[8..].iter().map(String::as_str).collect();
        let action_method = request.method == Method::POST;
        match (kind, rest.as_slice()) {
            (Kind::Disk | Kind::Snapshot, []) => self.one_disk(&id),
            (Kind::Disk | Kind::Snapshot, [action]) if action_method => {
                self.disk_action(&id, action)
            }
            (Kind::Vm, []) => self.one_vm(&id),
            (Kind::Vm, [action]) => self.vm_action(&id, action),
            (Kind::VirtualNetwork, ["subnets", name]) => self.one_subnet(&id, name),
            (Kind::Disk | Kind::Snapshot, _) | (_, [_, ..]) => Err(self.unknown()),
            (_, []) => self.one_network(&id),
        }
    }

    fn check_locked(&self, lower: &[&str]) -> Result<(), ArmError> {
        let mut intent = match self.request.method {
            Method::GET | Method::HEAD => Intent::Read,
            Method::DELETE => Intent::Delete,
            _ => Intent::Write,
        };
        let mut scope = lower;
        match lower {
            [.., "microsoft.authorization", "locks", _] => return Ok(()),
            [above @ .., "providers", "microsoft.resources", "tags", "default"] => {
                scope = above;
                if intent == Intent::Delete {
                    intent = Intent::Write;
                }
            }
            _ => {}
        }
        self.world.check_locks(&format!("/{}", scope.join("/")), intent)
    }

    fn check_subscription(&self, lower: &[&str]) -> Result<(), ArmError> {
        let ["subscriptions", subscription, ..] = lower else { return Ok(()) };
        let known = &self.world.state.facts.subscriptions;
        if known.iter().any(|s| s.eq_ignore_ascii_case(subscription)) {
            return Ok(());
        }
        Err(ArmError {
            gateway: true,
            ..ArmError::new(
                404,
                "SubscriptionNotFound",
                format!("The subscription '{subscription}' could not be found."),
            )
        })
    }

    /// The answer to what is not simulated. It is logged, since it may be a gap of the simulator.
    pub(super) fn unknown(&self) -> ArmError {
        let ArmRequest { method, path, .. } = self.request;
        tracing::warn!(%method, path, "not simulated");
        ArmError {
            gateway: true,
            ..ArmError::new(
                404,
                "NotFound",
                format!("No resource matches the request {method} {path}."),
            )
        }
    }

    pub(super) fn method_not_allowed(&self) -> ArmError {
        let method = &self.request.method;
        ArmError::new(
            405,
            "HttpMethodNotSupported",
            format!("The http method '{method}' is not supported for a resource of this type."),
        )
    }

    pub(super) fn not_found(&self, id: &ArmId) -> ArmError {
        ArmError::resource_not_found(&format!("{}/{}", id.kind.type_name(), id.name), &id.group)
    }
}
