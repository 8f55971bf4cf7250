use proptest::prelude::*;
use serde_json::json;

use super::reader::read;
use super::*;

#[test]
fn texts_that_look_like_something_else_come_back_as_texts() {
    for text in [
        "",
        " ",
        "no",
        "No",
        "y",
        "ON",
        "null",
        "~",
        "true",
        "1e3",
        "0x1f",
        "0o17",
        "017",
        "1_000",
        "12:30:45",
        "2026-01-01",
        "2026-01-01T08:00:00Z",
        ".inf",
        ".nan",
        "=",
        "<<",
        "-",
        "- x",
        "a: b",
        "a #b",
        "#",
        "&a",
        "*a",
        "!x",
        "%x",
        "@x",
        "`x",
        "|",
        ">",
        "'",
        "\"",
        "[",
        "{}",
        ",",
        "?",
        ":",
        "---",
        "...",
        "one\ntwo\n",
        "\r",
        "\t",
        " x ",
        "x ",
        "a\u{0}b",
        "\u{7f}\u{85}\u{9f}",
        "\u{2028}\u{2029}",
        "\u{feff}x",
        "\u{fffe}\u{ffff}",
        "\u{202e}\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
        "\u{1f980}",
        "\\n",
        "C:\\x",
        "azdr://operator/alice",
        "/subscriptions/5b0f/resourceGroups/Production",
        "prod-db-vm-backup-daily-20251201-0800",
        "no VM is there",
    ] {
        for document in [json!(text), json!([text]), json!({ text: text })] {
            let written = of(&document);
            assert_eq!(read(&written).as_ref(), Ok(&document), "{written}");
            assert_eq!(written.lines().count(), 1, "{written:?}");
        }
    }
}

#[test]
fn documents_look_like_yaml() {
    let document = json!({
        "empty": {"list": [], "object": {}},
        "list": [{"a": 1, "b": [true, null]}, [[1], "x"]],
        "name": "prod db",
        "numbers": [0, -1, 1.5, 1e300, 1e-7, u64::MAX],
    });
    let written = of(&document);
    assert_eq!(
        written,
        "empty:\n  list: []\n  object: {}\n\
         list:\n  - a: 1\n    b:\n      - true\n      - null\n  - - - 1\n    - x\n\
         name: prod db\n\
         numbers:\n  - 0\n  - -1\n  - 1.5\n  - 1.0e+300\n  - 1.0e-7\n  - 18446744073709551615\n"
    );
    assert_eq!(read(&written), Ok(document));
}

#[test]
fn a_long_name_is_still_a_name() {
    let long = "\u{0}".repeat(400);
    for document in [json!({ &long: 1 }), json!([{ &long: {"a": [1]} }, 2])] {
        let written = of(&document);
        assert_eq!(read(&written).as_ref(), Ok(&document), "{written}");
    }
}

fn any_document() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "[ -~\\n\\t]{0,12}",
        "[-+.0-9a-fxoe:_]{1,8}",
        prop::sample::select(vec!["no", "~", "null", "1e3", "- a", "a: b", "x #y", "\u{0}"])
            .prop_map(str::to_owned),
    ];
    let single = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    single.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text.clone(), inner, 0..6)
                .prop_map(|object| Value::Object(object.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_comes_back(document in any_document()) {
        let written = of(&document);
        prop_assert_eq!(read(&written).map_err(|e| TestCaseError::fail(format!("{e}\n{written}")))?, document);
    }
}
