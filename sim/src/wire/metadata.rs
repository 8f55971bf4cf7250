//! The metadata listener: plain HTTP, as inside a machine.
//!
//! Managed identity as of a VM (`/metadata/identity/oauth2/token`, header `Metadata: true`) and as
//! of an App Service (`/msi/token`, header `X-IDENTITY-HEADER`); instance metadata of each VM under
//! `/vm/{vmId}`, for agents that run on the host instead of in the machine.

use azdr_env::WallTime;
use serde_json::{Value, json};

use super::auth::managed_identity;
use super::reply::Reply;
use super::request::ArmRequest;
use crate::signing::Signer;
use crate::world::{Vm, World};

/// Answers a request to the metadata listener.
pub(crate) fn handle(world: &World, request: &ArmRequest, signer: &Signer, now: WallTime) -> Reply {
    let facts = &world.state.facts;
    let lower: Vec<&str> = request.lower.iter().map(String::as_str).collect();
    let flagged = request.header("metadata").is_some_and(|m| m.eq_ignore_ascii_case("true"));
    let secs = world.limits.token_secs;
    match lower[..] {
        ["msi", "token"] => {
            if request.header("x-identity-header") != Some(facts.identity_header.as_str()) {
                return Reply::json(401, json!({"statusCode": 401, "message": "Unauthorized"}));
            }
            managed_identity(request, signer, facts, now, secs)
        }
        _ if !flagged => Reply::json(
            400,
            json!({"error": "Bad request. Required metadata header not specified"}),
        ),
        ["metadata", "identity", "oauth2", "token"]
        | ["vm", _, "metadata", "identity", "oauth2", "token"] => {
            managed_identity(request, signer, facts, now, secs)
        }
        ["vm", vm_id, "metadata", "instance", ref rest @ ..] => {
            if request.param("api-version").is_none() {
                return Reply::json(
                    400,
                    json!({"error": "Bad request. api-version was not specified in the request"}),
                );
            }
            let vm = world.state.vms.iter().map(|(_, vm)| vm).find(|vm| vm.vm_id == vm_id);
            let document = vm.map(|vm| instance(facts.tenant.as_str(), vm));
            match (document, rest) {
                (Some(document), []) => Reply::json(200, document),
                (Some(document), ["compute"]) => Reply::json(200, document["compute"].clone()),
                _ => Reply::json(404, json!({"error": "Not found"})),
            }
        }
        _ => Reply::json(404, json!({"error": "Not found"})),
    }
}

fn instance(tenant: &str, vm: &Vm) -> Value {
    let id = &vm.common.id;
    let tags: Vec<Value> =
        vm.common.tags.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let size = vm.properties.get("hardwareProfile").map(|p| p["vmSize"].clone());
    json!({
        "compute": {
            "azEnvironment": "AzurePublicCloud",
            "location": vm.common.location,
            "name": id.name,
            "osType": vm.os_type,
            "resourceGroupName": id.group,
            "resourceId": id.to_string(),
            "subscriptionId": id.subscription,
            "tagsList": tags,
            "tenantId": tenant,
            "vmId": vm.vm_id,
            "vmSize": size,
            "zone": vm.common.zones.first().cloned().unwrap_or_default(),
        },
        "network": {"interface": []},
    })
}
