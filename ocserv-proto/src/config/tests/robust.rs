use proptest::collection::vec;
use proptest::prelude::*;

use super::BASE;
use crate::config::{keys, parse, priorities, supplemental};

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let names: Vec<&'static str> = keys::all().map(|key| key.name).collect();
    let value = prop_oneof![
        vec(any::<u8>(), 0..40),
        "[-+!%a-zA-Z0-9.,:/\\[\\]()=\"# ]{0,40}".prop_map(String::into_bytes),
    ];
    (proptest::sample::select(names), value)
        .prop_map(|(name, value)| [name.as_bytes(), b" = ", &value, b"\n"].concat())
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
        let _ = parse("f", &bytes);
        let _ = supplemental::parse("f", &bytes);
        let _ = priorities::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn arbitrary_values_never_panic(lines in vec(any_line(), 0..12)) {
        let text = [BASE.as_bytes(), &lines.concat(), b"[vhost:a]\n", &lines.concat()].concat();
        let _ = parse("f", &text);
        let _ = supplemental::parse("f", &lines.concat());
    }

    #[test]
    fn arbitrary_priorities_never_panic(text in "(NORMAL|NONE|@A)(:[-+%!][A-Z0-9-]{0,12}){0,6}") {
        if let Ok(parsed) = priorities::parse(&text) {
            prop_assert!(parsed.policy.tls12 || parsed.policy.tls13);
            prop_assert!(!parsed.policy.ciphers.is_empty());
            prop_assert!(!parsed.policy.groups.is_empty());
        }
    }
}
