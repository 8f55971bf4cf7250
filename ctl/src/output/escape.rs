//! JSON of which every character can be seen, and none does anything to a terminal.

/// The same JSON: what stands in its texts and is not shown, or does something, is `\\u` and its number.
pub(super) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unseen(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// Control characters beyond those that JSON has escaped itself; what turns the direction of writing or
/// has no width; what YAML does not allow, or breaks lines at in some version. The line ends of a
/// document that is spread over lines stay.
fn is_unseen(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn it_stays_the_same_json() {
        let document = json!({"a\u{9b}": ["\u{7f}\u{202e}x\n", "\u{feff}", "שלום \u{1f980}"]});
        let text = escaped(&format!("{document:#}"));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), document);
        assert!(text.contains("\\u009b") && text.contains("\\u202ex\\n"), "{text}");
        assert!(text.contains("שלום \u{1f980}") && text.lines().count() > 1, "{text}");
    }
}
