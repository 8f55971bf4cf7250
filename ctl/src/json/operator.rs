//! Operators, as JSON.

use std::path::Path;

use azdr_proto::admin::*;
use serde_json::{Value, json};

use super::{list, text, time};

pub(crate) fn operators(m: &ListOperatorsResponse) -> Value {
    json!({ "operators": list(&m.operators, operator) })
}

/// `added_by` is null for those whom azdr-controller has let in itself.
pub(crate) fn operator(m: &Operator) -> Value {
    json!({
        "name": m.name,
        "role": m.role,
        "added_at": time(m.added_unix_ms),
        "added_by": text(&m.added_by),
        "certificate_expires_at": time(m.certificate_expires_unix_ms),
        "renewal_pending": m.renewal_pending,
        "revoked_at": time(m.revoked_unix_ms),
        "revoked_by": text(&m.revoked_by),
    })
}

/// Certificate and key are in the folder, and nowhere else.
pub(crate) fn operator_added(m: &Operator, folder: &Path) -> Value {
    json!({ "operator": operator(m), "folder": folder.display().to_string() })
}

#[cfg(test)]
pub(super) fn written() -> Vec<(&'static str, Value)> {
    vec![
        ("ListOperatorsResponse", operators(&<_>::default())),
        ("Operator", operator(&<_>::default())),
    ]
}
