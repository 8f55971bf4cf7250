//! Pages of listings.

use serde_json::{Value, json};

use super::reply::Reply;
use super::request::ArmRequest;
use crate::signing::{base64url, from_base64url};

/// The key after which the asked-for page begins.
pub(super) fn after(request: &ArmRequest) -> Option<String> {
    String::from_utf8(from_base64url(request.param("$skiptoken")?)?).ok()
}

/// One page of `items` (key and entry, in key order, from [`after`] on). A page that is exactly full
/// has a successor, which may be empty.
pub(super) fn page<'k, T>(
    request: &ArmRequest,
    items: impl Iterator<Item = (&'k String, T)>,
    page_size: usize,
    render: impl Fn(T) -> Value,
) -> Reply {
    let top = request.param("$top").and_then(|top| top.parse::<usize>().ok());
    let size = top.map_or(page_size, |top| top.min(page_size)).max(1);
    let mut value = Vec::new();
    let mut last = None;
    for (key, item) in items {
        value.push(render(item));
        if value.len() == size {
            last = Some(key);
            break;
        }
    }
    let mut body = json!({"value": value});
    if let Some(last) = last {
        body["nextLink"] = json!(request.next_link(&base64url(last.as_bytes())));
    }
    Reply::json(200, body)
}
