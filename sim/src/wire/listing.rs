//! Pages of listings.

use serde_json::{Value, json};

use super::reply::Reply;
use super::request::ArmRequest;
use crate::signing::{base64url, from_base64url};

/// One page of `items` (key and entry, in key order). A page that is exactly full has a successor,
/// which may be empty.
pub(super) fn page<T>(
    request: &ArmRequest,
    items: impl Iterator<Item = (String, T)>,
    page_size: usize,
    render: impl Fn(T) -> Value,
) -> Reply {
    let after = request
        .param("$skiptoken")
        .and_then(from_base64url)
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let top = request.param("$top").and_then(|top| top.parse::<usize>().ok());
    let size = top.map_or(page_size, |top| top.min(page_size)).max(1);
    let mut value = Vec::new();
    let mut last = None;
    for (key, item) in items.filter(|(key, _)| after.as_ref().is_none_or(|after| key > after)) {
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
