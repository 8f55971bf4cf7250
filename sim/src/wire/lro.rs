//! The ways in which a long-running operation is announced.

use super::reply::Reply;
use super::router::Scope;
use crate::signing::base64url;
use crate::world::{Accepted, Operation, Service};

/// Which headers an answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announce {
    /// `Azure-AsyncOperation` and `Location`.
    Both,
    /// `Azure-AsyncOperation` alone.
    AsyncOnly,
    /// `Location` alone.
    LocationOnly,
}

impl Scope<'_> {
    /// Adds the headers of the operation that was started, if one was.
    pub(super) fn announce(&self, mut reply: Reply, how: Announce, accepted: &Accepted) -> Reply {
        let Some(operation) =
            accepted.operation.as_ref().and_then(|id| self.world.state.operations.get(id))
        else {
            return reply;
        };
        let signature = self.polling_signature(operation);
        if how != Announce::LocationOnly {
            let url = self.signed_polling_url(operation, false, &signature);
            reply = reply.header("azure-asyncoperation", url);
        }
        if how != Announce::AsyncOnly {
            reply = reply.header("location", self.signed_polling_url(operation, true, &signature));
        }
        if matches!(operation.service, Service::Compute | Service::Network) {
            reply = reply.header("azure-asyncnotification", "Enabled");
        }
        if let Some(seconds) = self.world.limits.retry_after_secs {
            reply = reply.header("retry-after", seconds.to_string());
        }
        reply.operation = accepted.operation.clone().filter(|_| !accepted.joined);
        reply
    }

    /// Where to poll. The URL is signed and is to be used as it is.
    pub(super) fn polling_url(&self, operation: &Operation, monitor: bool) -> String {
        self.signed_polling_url(operation, monitor, &self.polling_signature(operation))
    }

    fn polling_signature(&self, operation: &Operation) -> String {
        self.signer.sign(&format!("operation {}", operation.id))
    }

    fn signed_polling_url(&self, operation: &Operation, monitor: bool, signature: &str) -> String {
        let Operation { id, subscription, location, service, .. } = operation;
        let base = &self.request.base;
        let prefix = format!("{base}/subscriptions/{subscription}");
        let at = |namespace: &str, collection: &str| {
            format!("{prefix}/providers/{namespace}/locations/{location}/{collection}/{id}?")
        };
        let monitored = if monitor { "monitor=true&" } else { "" };
        let mut url = match service {
            Service::Disk => at("Microsoft.Compute", "DiskOperations") + monitored,
            Service::Compute => at("Microsoft.Compute", "operations") + monitored,
            Service::Network if monitor => at("Microsoft.Network", "operationResults"),
            Service::Network => at("Microsoft.Network", "operations"),
            Service::Resources => {
                let job = format!(
                    "{{\"jobId\":\"RESOURCEGROUPDELETIONJOB-{id}\",\"jobLocation\":\"{location}\"}}"
                );
                format!("{prefix}/operationresults/{}?", base64url(job.as_bytes()))
            }
        };
        url.push_str(&format!("api-version={}", self.api_version));
        let padding = self.world.limits.polling_url_padding;
        if padding > 0 {
            url.push_str(&format!(
                "&t=639100000000000000&c={}",
                "MIIHpTCCBo2gAwIBAgI".repeat(padding / 19 + 1)
            ));
        }
        url.push_str("&s=");
        url.push_str(signature);
        url
    }
}
