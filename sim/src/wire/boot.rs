//! Boot diagnostics: the serial console's log.

use std::time::Duration;

use azdr_env::WallTime;
use serde_json::{Value, json};

use super::reply::{Body, Reply};
use super::router::Scope;
use crate::world::{ArmError, ArmId};

impl Scope<'_> {
    /// `retrieveBootDiagnosticsData`: a URL to the log.
    pub(super) fn boot_diagnostics(&self, id: &ArmId) -> Result<Reply, ArmError> {
        let vm = self.found_vm(id)?;
        let diagnostics =
            vm.properties.get("diagnosticsProfile").and_then(|p| p.get("bootDiagnostics"));
        if diagnostics.and_then(|d| d["enabled"].as_bool()) != Some(true) {
            return Err(ArmError::not_allowed(format!(
                "Boot diagnostics is not enabled on VM '{}'.",
                id.name
            )));
        }
        let minutes = self.request.param("sasUriExpirationTimeInMinutes");
        let minutes = minutes.and_then(|m| m.parse::<u64>().ok()).unwrap_or(120).clamp(1, 1440);
        let expires = self.now.plus(Duration::from_secs(60 * minutes)).unix_ms();
        let vm_id = &vm.vm_id;
        let signature = self.signer.sign(&format!("boot {vm_id} {expires}"));
        let url = |name: &str| {
            format!("{}/sas/boot/{vm_id}/{name}?se={expires}&sig={signature}", self.request.base)
        };
        let mut body: Value = json!({"serialConsoleLogBlobUri": url("serialconsole.log")});
        body["consoleScreenshotBlobUri"] = json!(url("screenshot.bmp"));
        Ok(Reply::json(200, body))
    }

    /// The log behind such a URL.
    pub(super) fn boot_log(&self) -> Reply {
        let vm_id = self.request.segments.get(2).map(String::as_str).unwrap_or_default();
        let expires = self.request.param("se").unwrap_or_default();
        let text = format!("boot {vm_id} {expires}");
        let signed = self.signer.verify(&text, self.request.param("sig").unwrap_or_default());
        let alive = expires.parse().is_ok_and(|at| WallTime::from_unix_ms(at) > self.now);
        if !signed || !alive {
            return Reply::empty(403);
        }
        let mut reply = Reply::empty(200);
        reply.body = Body::SerialLog(vm_id.to_owned());
        reply
    }
}

/// Where the serial console of a VM is written.
pub(crate) fn serial_log(state_dir: &std::path::Path, vm_id: &str) -> std::path::PathBuf {
    state_dir.join("serial").join(format!("{vm_id}.log"))
}
