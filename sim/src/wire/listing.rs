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
pub(super) fn page<'k, T, D: Document>(
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
        let mut document = render(item);
        if limits.mixed_case_ids {
            document.mix_case();
        }
        write(&mut text, &document);
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
    Reply { body: Body::Json(text), ..Reply::empty(200) }
}

fn write(text: &mut Vec<u8>, document: &impl Serialize) {
    serde_json::to_writer(text, document).expect("documents can be written");
}

/// An entry of a listing.
pub(super) trait Document: Serialize {
    /// Writes its id as some of Azure's listings do: see [`mixed_case`].
    fn mix_case(&mut self);
}

impl Document for Value {
    fn mix_case(&mut self) {
        if let Some(fields) = self.as_object_mut() {
            fields.mix_case();
        }
    }
}

/// Ids as some of Azure's listings have them: the resource group in capitals and its word without.
/// `None`: there is no group in it.
pub(super) fn mixed_case(id: &str) -> Option<String> {
    let mut parts = id.splitn(6, '/');
    let ("", subscriptions, subscription) = (parts.next()?, parts.next()?, parts.next()?) else {
        return None;
    };
    let (_, group, rest) = (parts.next()?, parts.next()?, parts.next());
    let mut mixed = String::with_capacity(id.len());
    for part in [subscriptions, subscription, "resourcegroups", &group.to_uppercase()] {
        mixed.push('/');
        mixed.push_str(part);
    }
    if let Some(rest) = rest {
        mixed.push('/');
        mixed.push_str(rest);
    }
    Some(mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_alone_is_in_capitals() {
        let of = |id| mixed_case(id).unwrap();
        assert_eq!(
            of("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d"),
            "/subscriptions/s/resourcegroups/G/providers/Microsoft.Compute/disks/d"
        );
        assert_eq!(of("/subscriptions/s/resourceGroups/g"), "/subscriptions/s/resourcegroups/G");
        assert_eq!(mixed_case("/subscriptions/s/resourceGroups"), None);
        assert_eq!(mixed_case("subscriptions/s/resourceGroups/g"), None);
    }
}
