//! Documents as fields: what is in an object stands beside it, with a dot between.

use serde_json::Value;

/// All fields of an object by path, in the order of the object; lists stay whole.
pub(super) fn fields(document: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    spread("", document, &mut found);
    found
}

fn spread<'a>(path: &str, value: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                let dot = if path.is_empty() { "" } else { "." };
                spread(&format!("{path}{dot}{name}"), value, found);
            }
        }
        value => found.push((path.to_owned(), value)),
    }
}

/// The field at a path; null where there is none.
pub(super) fn at<'a>(item: &'a Value, path: &str) -> &'a Value {
    let found = path.split('.').try_fold(item, |value, name| value.get(name));
    found.unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_spread_and_lists_are_not() {
        let document = json!({"a": {"b": {"c": 1}, "d": [{"e": 2}]}, "f": null, "g": {}});
        let found = fields(&document);
        let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["a.b.c", "a.d", "f", "g"]);
        assert_eq!(at(&document, "a.b.c"), 1);
        assert_eq!(at(&document, "f.g"), &Value::Null);
        assert_eq!(at(&document, "nothing"), &Value::Null);
    }
}
