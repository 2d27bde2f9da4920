//! Names of GnuTLS priority strings, and what the initial keywords stand for.

use super::{Cipher, Group};

/// What an item selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    Version,
    Cipher,
    KeyExchange,
    Mac,
    Group,
    Signature,
    /// Compression and certificate types: without meaning today.
    Nothing,
}

/// Items that the gateway can serve, in the order in which `NORMAL` and `*-ALL` prefer them.
/// Versions and key exchanges are named without regard to order.
const SERVED: &[(Category, &str)] = &[
    (Category::Version, "VERS-TLS1.3"),
    (Category::Version, "VERS-TLS1.2"),
    (Category::Cipher, "AES-256-GCM"),
    (Category::Cipher, "CHACHA20-POLY1305"),
    (Category::Cipher, "AES-128-GCM"),
    (Category::KeyExchange, "ECDHE-ECDSA"),
    (Category::KeyExchange, "ECDHE-RSA"),
    (Category::Mac, "AEAD"),
    (Category::Group, "GROUP-X25519"),
    (Category::Group, "GROUP-SECP256R1"),
    (Category::Group, "GROUP-SECP384R1"),
    (Category::Signature, "SIGN-ECDSA-SHA256"),
    (Category::Signature, "SIGN-ECDSA-SHA384"),
    (Category::Signature, "SIGN-ECDSA-SHA512"),
    (Category::Signature, "SIGN-EDDSA-ED25519"),
    (Category::Signature, "SIGN-RSA-PSS-RSAE-SHA256"),
    (Category::Signature, "SIGN-RSA-PSS-RSAE-SHA384"),
    (Category::Signature, "SIGN-RSA-PSS-RSAE-SHA512"),
    (Category::Signature, "SIGN-RSA-PSS-SHA256"),
    (Category::Signature, "SIGN-RSA-PSS-SHA384"),
    (Category::Signature, "SIGN-RSA-PSS-SHA512"),
    (Category::Signature, "SIGN-RSA-SHA256"),
    (Category::Signature, "SIGN-RSA-SHA384"),
    (Category::Signature, "SIGN-RSA-SHA512"),
];

/// Valid items that cannot be served: removing them changes nothing, adding them is warned about.
const UNSERVED: &[(Category, &[&str])] = &[
    (
        Category::Version,
        &["VERS-SSL3.0", "VERS-TLS1.0", "VERS-TLS1.1"],
    ),
    // DTLS is 1.2 with PSK whatever the string says, as in the reference.
    (
        Category::Nothing,
        &[
            "VERS-DTLS0.9",
            "VERS-DTLS1.0",
            "VERS-DTLS1.2",
            "VERS-DTLS-ALL",
        ],
    ),
    (
        Category::Cipher,
        &[
            "AES-128-CCM",
            "AES-256-CCM",
            "AES-128-CCM-8",
            "AES-256-CCM-8",
            "AES-128-CBC",
            "AES-192-CBC",
            "AES-256-CBC",
            "3DES-CBC",
            "DES-CBC",
            "ARCFOUR-128",
            "ARCFOUR-40",
            "RC2-40",
            "SALSA20-256",
            "ESTREAM-SALSA20-256",
            "NULL",
            "AES-192-GCM",
            "CAMELLIA-128-CBC",
            "CAMELLIA-192-CBC",
            "CAMELLIA-256-CBC",
            "CAMELLIA-128-GCM",
            "CAMELLIA-256-GCM",
        ],
    ),
    (
        Category::KeyExchange,
        &[
            "RSA",
            "DHE-RSA",
            "DHE-DSS",
            "PSK",
            "DHE-PSK",
            "ECDHE-PSK",
            "RSA-PSK",
            "ANON-DH",
            "ANON-ECDH",
            "SRP",
            "SRP-RSA",
            "SRP-DSS",
            "RSA-EXPORT",
        ],
    ),
    (
        Category::Mac,
        &[
            "SHA1", "SHA224", "SHA256", "SHA384", "SHA512", "MD5", "RMD160", "UMAC-96", "UMAC-128",
        ],
    ),
    (
        Category::Group,
        &[
            "GROUP-SECP192R1",
            "GROUP-SECP224R1",
            "GROUP-SECP521R1",
            "GROUP-X448",
            "GROUP-FFDHE2048",
            "GROUP-FFDHE3072",
            "GROUP-FFDHE4096",
            "GROUP-FFDHE6144",
            "GROUP-FFDHE8192",
        ],
    ),
    (
        Category::Signature,
        &[
            "SIGN-RSA-MD5",
            "SIGN-RSA-SHA1",
            "SIGN-RSA-SHA224",
            "SIGN-RSA-RMD160",
            "SIGN-RSA-SHA3-224",
            "SIGN-RSA-SHA3-256",
            "SIGN-RSA-SHA3-384",
            "SIGN-RSA-SHA3-512",
            "SIGN-DSA-SHA1",
            "SIGN-DSA-SHA224",
            "SIGN-DSA-SHA256",
            "SIGN-DSA-SHA384",
            "SIGN-DSA-SHA512",
            "SIGN-ECDSA-SHA1",
            "SIGN-ECDSA-SHA224",
            "SIGN-ECDSA-SHA3-224",
            "SIGN-ECDSA-SHA3-256",
            "SIGN-ECDSA-SHA3-384",
            "SIGN-ECDSA-SHA3-512",
            "SIGN-EDDSA-ED448",
        ],
    ),
    (
        Category::Nothing,
        &[
            "COMP-ALL",
            "COMP-NULL",
            "COMP-DEFLATE",
            "CTYPE-ALL",
            "CTYPE-X.509",
            "CTYPE-X509",
            "CTYPE-OPENPGP",
            "CTYPE-RAWPK",
            "CTYPE-SRV-ALL",
            "CTYPE-SRV-X509",
            "CTYPE-SRV-RAWPK",
            "CTYPE-CLI-ALL",
            "CTYPE-CLI-X509",
            "CTYPE-CLI-RAWPK",
        ],
    ),
];

/// Options that start with `%` and change nothing here.
const IGNORED_OPTIONS: &[&str] = &[
    "COMPAT",
    "DUMBFW",
    "NO_EXTENSIONS",
    "NO_SESSION_HASH",
    "NO_ETM",
    "SAFE_RENEGOTIATION",
    "PARTIAL_RENEGOTIATION",
    "UNSAFE_RENEGOTIATION",
    "DISABLE_SAFE_RENEGOTIATION",
    "VERIFY_ALLOW_SIGN_RSA_MD5",
    "VERIFY_ALLOW_SIGN_WITH_SHA1",
    "VERIFY_ALLOW_BROKEN",
    "VERIFY_DISABLE_CRL_CHECKS",
    "VERIFY_ALLOW_X509_V1_CA_CRT",
    "LATEST_RECORD_VERSION",
    "SSL3_RECORD_VERSION",
    "FALLBACK_SCSV",
    "ALLOW_SMALL_RECORDS",
    "TLS13_COMPAT_MODE",
    "DISABLE_TLS13_COMPAT_MODE",
    "NO_DEFAULT_PRIORITY",
    "DISABLE_WILDCARDS",
    "NO_STATUS_REQUEST",
    "STATELESS_COMPRESSION",
    "KEYWORD_ALLOW_SIGN_RSA_MD5",
    "FORCE_SESSION_HASH",
    "NO_SHUFFLE_EXTENSIONS",
    "FORCE_ETM",
];

/// What an item's name means.
pub(super) enum Item {
    /// It can be served; the name in its usual form.
    Served(&'static str),
    /// Every item of the category.
    All(Category),
    /// A valid name of something that cannot be served.
    Unserved(Category, String),
}

/// Looks a name up (upper case).
pub(super) fn find(name: &str) -> Option<Item> {
    let all = match name {
        "VERS-ALL" | "VERS-TLS-ALL" => Some(Category::Version),
        "CIPHER-ALL" => Some(Category::Cipher),
        "KX-ALL" => Some(Category::KeyExchange),
        "MAC-ALL" => Some(Category::Mac),
        "GROUP-ALL" | "CURVE-ALL" => Some(Category::Group),
        "SIGN-ALL" => Some(Category::Signature),
        _ => None,
    };
    if let Some(category) = all {
        return Some(Item::All(category));
    }
    let usual = usual_name(name);
    let served = SERVED.iter().find(|(_, served)| *served == usual);
    if let Some((_, name)) = served {
        return Some(Item::Served(name));
    }
    let listed = UNSERVED
        .iter()
        .find(|(_, names)| names.contains(&usual.as_str()));
    let category = listed?.0;
    Some(Item::Unserved(category, usual))
}

fn usual_name(name: &str) -> String {
    if let Some(curve) = name.strip_prefix("CURVE-") {
        return format!("GROUP-{curve}");
    }
    match name {
        "SIGN-ECDSA-SECP256R1-SHA256" => "SIGN-ECDSA-SHA256",
        "SIGN-ECDSA-SECP384R1-SHA384" => "SIGN-ECDSA-SHA384",
        "SIGN-ECDSA-SECP521R1-SHA512" => "SIGN-ECDSA-SHA512",
        other => other,
    }
    .to_owned()
}

/// Served items of a category, best first.
pub(super) fn served(category: Category) -> impl Iterator<Item = &'static str> {
    SERVED
        .iter()
        .filter(move |row| row.0 == category)
        .map(|row| row.1)
}

const ALL_VERSIONS: &[&str] = &["VERS-TLS1.3", "VERS-TLS1.2"];
const ECDHE: &[&str] = &["ECDHE-ECDSA", "ECDHE-RSA"];
const LONG_CIPHERS: &[&str] = &["AES-256-GCM", "CHACHA20-POLY1305"];
const LONG_SIGNATURES: &[&str] = &[
    "SIGN-ECDSA-SHA384",
    "SIGN-ECDSA-SHA512",
    "SIGN-RSA-PSS-RSAE-SHA384",
    "SIGN-RSA-PSS-RSAE-SHA512",
    "SIGN-RSA-PSS-SHA384",
    "SIGN-RSA-PSS-SHA512",
    "SIGN-RSA-SHA384",
    "SIGN-RSA-SHA512",
];

/// What an initial keyword selects: lists of served items.
pub(super) fn keyword(name: &str) -> Option<Vec<&'static str>> {
    let everything = || SERVED.iter().map(|row| row.1);
    let lists: &[&[&'static str]] = match name {
        "NONE" => &[],
        "NORMAL" | "LEGACY" | "SECURE" | "SECURE128" | "PFS" => {
            return Some(everything().collect());
        }
        "PERFORMANCE" => {
            let ciphers = ["AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"];
            let rest = everything().filter(|item| !ciphers.contains(item));
            return Some(ciphers.into_iter().chain(rest).collect());
        }
        "SECURE192" | "SECURE256" => &[
            ALL_VERSIONS,
            LONG_CIPHERS,
            ECDHE,
            &["AEAD", "GROUP-SECP384R1"],
            LONG_SIGNATURES,
        ],
        "SUITEB128" => &[&[
            "VERS-TLS1.2",
            "AES-128-GCM",
            "AES-256-GCM",
            "ECDHE-ECDSA",
            "AEAD",
            "GROUP-SECP256R1",
            "GROUP-SECP384R1",
            "SIGN-ECDSA-SHA256",
            "SIGN-ECDSA-SHA384",
        ]],
        "SUITEB192" => &[&[
            "VERS-TLS1.2",
            "AES-256-GCM",
            "ECDHE-ECDSA",
            "AEAD",
            "GROUP-SECP384R1",
            "SIGN-ECDSA-SHA384",
        ]],
        // The system's policy files are GnuTLS's own; its built-in default stands in for them.
        system if system.starts_with('@') && system.len() > 1 => {
            return Some(everything().collect());
        }
        _ => return None,
    };
    Some(lists.concat())
}

/// Category of a served item.
pub(super) fn category(name: &str) -> Category {
    SERVED
        .iter()
        .find(|row| row.1 == name)
        .map_or(Category::Nothing, |row| row.0)
}

pub(super) fn cipher(name: &str) -> Option<Cipher> {
    match name {
        "AES-128-GCM" => Some(Cipher::Aes128Gcm),
        "AES-256-GCM" => Some(Cipher::Aes256Gcm),
        "CHACHA20-POLY1305" => Some(Cipher::Chacha20Poly1305),
        _ => None,
    }
}

pub(super) fn group(name: &str) -> Option<Group> {
    match name {
        "GROUP-X25519" => Some(Group::X25519),
        "GROUP-SECP256R1" => Some(Group::Secp256r1),
        "GROUP-SECP384R1" => Some(Group::Secp384r1),
        _ => None,
    }
}

/// `SignatureScheme` code points (RFC 8446 §4.2.3).
pub(super) fn signature(name: &str) -> Option<u16> {
    match name {
        "SIGN-RSA-SHA256" => Some(0x0401),
        "SIGN-RSA-SHA384" => Some(0x0501),
        "SIGN-RSA-SHA512" => Some(0x0601),
        "SIGN-ECDSA-SHA256" => Some(0x0403),
        "SIGN-ECDSA-SHA384" => Some(0x0503),
        "SIGN-ECDSA-SHA512" => Some(0x0603),
        "SIGN-RSA-PSS-RSAE-SHA256" => Some(0x0804),
        "SIGN-RSA-PSS-RSAE-SHA384" => Some(0x0805),
        "SIGN-RSA-PSS-RSAE-SHA512" => Some(0x0806),
        "SIGN-EDDSA-ED25519" => Some(0x0807),
        "SIGN-RSA-PSS-SHA256" => Some(0x0809),
        "SIGN-RSA-PSS-SHA384" => Some(0x080a),
        "SIGN-RSA-PSS-SHA512" => Some(0x080b),
        _ => None,
    }
}

/// Effect of a `%` option.
pub(super) enum Effect {
    ServerPrecedence,
    NoTickets,
    /// Smallest RSA modulus, bits.
    MinRsaBits(u32),
    None,
}

/// Looks an option up (upper case, without `%`).
pub(super) fn option(name: &str) -> Option<Effect> {
    let profile = match name.strip_prefix("PROFILE_") {
        Some("VERY_WEAK" | "WEAK") => Some(0),
        Some("LOW") => Some(1024),
        Some("LEGACY") => Some(1776),
        Some("MEDIUM") => Some(2048),
        Some("HIGH" | "SUITEB128" | "SUITEB192") => Some(3072),
        Some("ULTRA") => Some(8192),
        Some("FUTURE") => Some(15360),
        _ => None,
    };
    match name {
        "SERVER_PRECEDENCE" => Some(Effect::ServerPrecedence),
        "NO_TICKETS" | "NO_TICKETS_TLS12" => Some(Effect::NoTickets),
        _ if IGNORED_OPTIONS.contains(&name) => Some(Effect::None),
        _ => profile.map(Effect::MinRsaBits),
    }
}
