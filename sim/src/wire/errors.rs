//! ARM's error envelopes.

use serde_json::json;

use super::reply::Reply;
use crate::world::ArmError;

/// The answer for a refusal.
pub(super) fn envelope(error: ArmError) -> Reply {
    let ArmError { status, code, message, gateway, retry_after, bare_target } = error;
    let body = match bare_target {
        // The compute provider's throttling answer has no outer `error`.
        Some(target) => json!({
            "code": code,
            "message": message,
            "details": [{"code": "TooManyRequests", "target": target, "message": message}],
        }),
        None => json!({"error": {"code": code, "message": message}}),
    };
    let mut reply = Reply::json(status, body);
    if gateway {
        reply = reply.header("x-ms-failure-cause", "gateway");
    }
    if let Some(seconds) = retry_after {
        reply = reply.header("retry-after", seconds.to_string());
    }
    reply
}
