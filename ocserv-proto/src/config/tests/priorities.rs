use crate::config::priorities::{Cipher, Group, PriorityError, TlsPolicy, parse};

fn policy(text: &str) -> TlsPolicy {
    parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .policy
}

const LONG_FIRST: [Cipher; 3] = [
    Cipher::Aes256Gcm,
    Cipher::Chacha20Poly1305,
    Cipher::Aes128Gcm,
];
const LONG: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::Chacha20Poly1305];
const SHORT_FIRST: [Cipher; 3] = [
    Cipher::Aes128Gcm,
    Cipher::Aes256Gcm,
    Cipher::Chacha20Poly1305,
];

#[test]
fn deployed_strings() {
    // config.md §5, "Strings a deployed file will contain"
    const COMPAT: &str = "NORMAL:%SERVER_PRECEDENCE:%COMPAT";
    for (text, tls12, tls13, ciphers) in [
        (
            format!("{COMPAT}:-VERS-SSL3.0"),
            true,
            true,
            &LONG_FIRST[..],
        ),
        (
            format!("{COMPAT}:-VERS-SSL3.0:-VERS-TLS1.0:-VERS-TLS1.1"),
            true,
            true,
            &LONG_FIRST,
        ),
        (
            format!("{COMPAT}:-VERS-TLS1.0:-VERS-TLS1.1:-VERS-TLS1.3"),
            true,
            false,
            &LONG_FIRST,
        ),
        (
            format!("{COMPAT}:-RSA:-VERS-SSL3.0:-ARCFOUR-128"),
            true,
            true,
            &LONG_FIRST,
        ),
        (
            format!("{COMPAT}:-VERS-SSL3.0:-VERS-TLS-ALL:+VERS-TLS1.2"),
            true,
            false,
            &LONG_FIRST,
        ),
        ("SECURE256:%SERVER_PRECEDENCE".to_owned(), true, true, &LONG),
        (
            "PERFORMANCE:%SERVER_PRECEDENCE:%COMPAT".to_owned(),
            true,
            true,
            &SHORT_FIRST,
        ),
        (
            "@SYSTEM:%SERVER_PRECEDENCE".to_owned(),
            true,
            true,
            &LONG_FIRST,
        ),
        (
            "normal:%server_precedence".to_owned(),
            true,
            true,
            &LONG_FIRST,
        ),
    ] {
        let parsed = parse(&text).unwrap();
        let policy = &parsed.policy;
        assert_eq!((policy.tls12, policy.tls13), (tls12, tls13), "{text}");
        assert_eq!(policy.ciphers, ciphers, "{text}");
        assert_eq!(policy.dtls_ciphers, ciphers, "{text}");
        assert!(policy.server_precedence, "{text}");
        assert!(parsed.warnings.is_empty(), "{text}: {:?}", parsed.warnings);
    }
    assert_eq!(policy(COMPAT), TlsPolicy::default());
    assert!(!policy("NORMAL").server_precedence);
}

#[test]
fn items_change_the_lists() {
    let p = policy("NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305:+AES-128-GCM");
    assert_eq!(p.ciphers, [Cipher::Chacha20Poly1305, Cipher::Aes128Gcm]);
    let p = policy("NORMAL:!AES-256-GCM:-GROUP-ALL:+CURVE-SECP384R1:+GROUP-X25519");
    assert_eq!(p.ciphers, [Cipher::Chacha20Poly1305, Cipher::Aes128Gcm]);
    assert_eq!(p.groups, [Group::Secp384r1, Group::X25519]);
    let p = policy("NORMAL:-ECDHE-RSA:-SIGN-ALL:+SIGN-ECDSA-SECP256R1-SHA256:+SIGN-EDDSA-ED25519");
    assert!(p.ecdhe_ecdsa && !p.ecdhe_rsa);
    assert_eq!(p.signatures, [0x0403, 0x0807]);
    let p = policy("SECURE256:+SECURE128");
    assert_eq!(p.ciphers, LONG_FIRST);
    let p = policy("SUITEB192");
    assert_eq!(
        (p.tls12, p.tls13, &p.ciphers[..]),
        (true, false, &[Cipher::Aes256Gcm][..])
    );
    assert_eq!((p.ecdhe_rsa, p.signatures), (false, vec![0x0503]));
    let full = "NONE:+VERS-TLS-ALL:+AES-128-GCM:+ECDHE-RSA:+AEAD:+SIGN-ALL:+GROUP-ALL:+COMP-ALL:+CTYPE-ALL";
    assert_eq!(policy(full).ciphers, [Cipher::Aes128Gcm]);
}

#[test]
fn ciphers_by_name_are_a_wish() {
    for text in [
        "NORMAL",
        "PERFORMANCE:%SERVER_PRECEDENCE",
        "SECURE256:+SECURE128",
        "@SYSTEM",
        "NORMAL:-AES-256-GCM:-CHACHA20-POLY1305",
        "NORMAL:-CIPHER-ALL:+CIPHER-ALL",
        "NORMAL:+AES-128-GCM:-CIPHER-ALL:+CIPHER-ALL",
        "NORMAL:+AES-256-CBC:+GROUP-X25519",
    ] {
        assert!(!policy(text).ciphers_named, "{text}");
    }
    for text in [
        "NORMAL:-CIPHER-ALL:+AES-256-GCM:+CHACHA20-POLY1305",
        "NORMAL:-AES-256-GCM:+AES-256-GCM",
        "NORMAL:+aes-128-gcm",
        "NONE:+VERS-TLS-ALL:+AES-128-GCM:+ECDHE-RSA:+AEAD:+SIGN-ALL:+GROUP-ALL",
    ] {
        assert!(policy(text).ciphers_named, "{text}");
    }
}

#[test]
fn options() {
    assert!(!policy("NORMAL:%NO_TICKETS").tickets);
    for (name, bits) in [
        ("LOW", 1024),
        ("MEDIUM", 2048),
        ("HIGH", 3072),
        ("FUTURE", 15_360),
    ] {
        assert_eq!(
            policy(&format!("NORMAL:%PROFILE_{name}")).min_rsa_bits,
            bits
        );
    }
    for name in "COMPAT DUMBFW NO_EXTENSIONS NO_SESSION_HASH NO_ETM SAFE_RENEGOTIATION \
                 PARTIAL_RENEGOTIATION UNSAFE_RENEGOTIATION DISABLE_SAFE_RENEGOTIATION \
                 VERIFY_ALLOW_SIGN_RSA_MD5 VERIFY_ALLOW_SIGN_WITH_SHA1 VERIFY_ALLOW_BROKEN \
                 LATEST_RECORD_VERSION SSL3_RECORD_VERSION FALLBACK_SCSV ALLOW_SMALL_RECORDS \
                 TLS13_COMPAT_MODE"
        .split_ascii_whitespace()
    {
        assert_eq!(
            policy(&format!("NORMAL:%{name}")),
            policy("NORMAL"),
            "{name}"
        );
    }
}

#[test]
fn removing_the_unserved_is_nothing_and_adding_it_is_told() {
    // config.md §5, table
    for item in [
        "VERS-SSL3.0",
        "VERS-TLS1.0",
        "VERS-DTLS0.9",
        "VERS-DTLS-ALL",
        "AES-256-CBC",
        "3DES-CBC",
        "CAMELLIA-256-GCM",
        "AES-128-CCM-8",
        "RSA",
        "DHE-RSA",
        "PSK",
        "ANON-ECDH",
        "SHA1",
        "MD5",
        "GROUP-FFDHE2048",
        "GROUP-X448",
        "GROUP-SECP521R1",
        "SIGN-RSA-SHA1",
        "COMP-NULL",
        "CTYPE-OPENPGP",
    ] {
        let parsed = parse(&format!("NORMAL:-{item}")).unwrap_or_else(|e| panic!("{item}: {e}"));
        assert_eq!(parsed.policy, policy("NORMAL"), "{item}");
        assert!(parsed.warnings.is_empty(), "{item}");
    }
    for item in [
        "VERS-TLS1.0",
        "AES-256-CBC",
        "DHE-RSA",
        "GROUP-FFDHE2048",
        "SIGN-RSA-SHA1",
    ] {
        let parsed = parse(&format!("NORMAL:+{item}")).unwrap();
        assert_eq!(parsed.warnings, [format!("'+{item}' cannot be served")]);
    }
}

#[test]
fn bad_strings_name_the_item() {
    // config.md §5, rule; measured with 1.1.6: each of these ends the start there, too
    for item in [
        "+FOO",
        "-GROUP-FOO",
        "%FOO",
        "aes-128-gcm",
        "",
        "-VERS-TLS1.4",
        "+CTYPE-FOO",
    ] {
        let error = parse(&format!("NORMAL:{item}")).unwrap_err();
        assert_eq!(error, PriorityError::Item(item.to_owned()));
    }
    assert_eq!(
        parse("-RSA").unwrap_err(),
        PriorityError::Keyword("-RSA".to_owned())
    );
    assert_eq!(
        parse("").unwrap_err(),
        PriorityError::Keyword(String::new())
    );
}

#[test]
fn unservable_policies_are_refused() {
    let phone =
        "NONE:%SERVER_PRECEDENCE:%COMPAT:+VERS-TLS-ALL:+SIGN-ALL:+COMP-ALL:+RSA:+SHA1:+AES-256-CBC";
    for text in [
        phone,
        "NONE",
        "NORMAL:-VERS-TLS-ALL",
        "NORMAL:-VERS-TLS-ALL:+VERS-TLS1.0",
        "NORMAL:-CIPHER-ALL:+AES-256-CBC",
        "NORMAL:-MAC-ALL:+SHA1",
        "NORMAL:-GROUP-ALL:+GROUP-FFDHE2048",
        "NORMAL:-SIGN-ALL",
        "NORMAL:-VERS-TLS1.3:-KX-ALL:+RSA",
    ] {
        assert!(
            matches!(parse(text), Err(PriorityError::Unservable(_))),
            "{text}"
        );
    }
    let hole = "NORMAL:-VERS-TLS1.2:+VERS-TLS1.1";
    assert_eq!(parse(hole).unwrap_err(), PriorityError::Hole);
    let parsed = parse("NORMAL:-KX-ALL:+RSA").unwrap();
    assert!(parsed.policy.tls13 && !parsed.policy.tls12);
    assert_eq!(parsed.warnings.len(), 2);
}
