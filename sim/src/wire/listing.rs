//! Pages of listings.

use serde::Serialize;
use serde_json::{Value, json};

use super::reply::{Body, Reply};
use super::request::ArmRequest;
use crate::config::Limits;
use crate::signing::{base64url, from_base64url};

/// Marks the token of a page that is to be empty.
const EMPTY: &str = "empty:";

fn token(request: &ArmRequest) -> Option<String> {
    String::from_utf8(from_base64url(request.param("$skiptoken")?)?).ok()
}

/// The key after which the asked-for page begins.
pub(super) fn after(request: &ArmRequest) -> Option<String> {
    token(request).map(|token| token.trim_start_matches(EMPTY).to_owned())
}

/// One page of `items` (key and entry, in key order, from [`after`] on). A page that is exactly full
/// has a successor, which may be empty.
///
/// The JSON is written item by item: a page holds a hundred documents of kilobytes each.
pub(super) fn page<'k, T, D: Serialize>(
    request: &ArmRequest,
    items: impl Iterator<Item = (&'k String, T)>,
    limits: &Limits,
    render: impl Fn(T) -> D,
) -> Reply {
    if let Some(token) = token(request).filter(|token| token.starts_with(EMPTY)) {
        let next = base64url(token.trim_start_matches(EMPTY).as_bytes());
        return Reply::json(200, json!({"value": [], "nextLink": request.next_link(&next)}));
    }
    let top = request.param("$top").and_then(|top| top.parse::<usize>().ok());
    let size = top.map_or(limits.page_size, |top| top.min(limits.page_size)).max(1);
    let mut text = Vec::with_capacity(4096);
    text.extend_from_slice(b"{\"value\":[");
    let mut last = None;
    for (count, (key, item)) in items.enumerate().take(size) {
        if count > 0 {
            text.push(b',');
        }
        let document = render(item);
        if limits.mixed_case_ids {
            let mut document = serde_json::to_value(document).expect("documents can be written");
            mix_case(&mut document);
            write(&mut text, &document);
        } else {
            write(&mut text, &document);
        }
        if count + 1 == size {
            last = Some(key);
        }
    }
    text.push(b']');
    if let Some(last) = last {
        let token = if limits.empty_pages { format!("{EMPTY}{last}") } else { last.clone() };
        text.extend_from_slice(b",\"nextLink\":");
        write(&mut text, &request.next_link(&base64url(token.as_bytes())));
    }
    text.push(b'}');
    Reply { body: Body::Written(text), ..Reply::empty(200) }
}

fn write(text: &mut Vec<u8>, document: &impl Serialize) {
    serde_json::to_writer(text, document).expect("documents can be written");
}

/// Ids as some of Azure's listings have them: the resource group in capitals and its word without.
fn mix_case(document: &mut Value) {
    let Some(id) = document["id"].as_str() else { return };
    let parts: Vec<&str> = id.split('/').collect();
    if let ["", subscriptions, subscription, _, group, rest @ ..] = &parts[..] {
        let group = group.to_uppercase();
        let mut mixed = vec!["", subscriptions, subscription, "resourcegroups", &group];
        mixed.extend(rest);
        document["id"] = json!(mixed.join("/"));
    }
}
