//! `tls-priorities`: a GnuTLS priority string as a policy for rustls and DTLS-PSK (config.md §5).

mod items;

use items::{Category, Effect, Item};
use serde::{Deserialize, Serialize};

/// What TLS and DTLS may negotiate. Only what the gateway can serve is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsPolicy {
    /// TLS 1.2 is on.
    pub tls12: bool,
    /// TLS 1.3 is on.
    pub tls13: bool,
    /// Ciphers of TLS, best first.
    pub ciphers: Vec<Cipher>,
    /// Ciphers of DTLS 1.2 with PSK, best first; empty: no DTLS.
    pub dtls_ciphers: Vec<Cipher>,
    /// The string adds ciphers by name, so that their order is the administrator's wish and not
    /// only that of a keyword.
    pub ciphers_named: bool,
    /// Key exchange groups, best first.
    pub groups: Vec<Group>,
    /// TLS 1.2 suites ECDHE_RSA are on.
    pub ecdhe_rsa: bool,
    /// TLS 1.2 suites ECDHE_ECDSA are on.
    pub ecdhe_ecdsa: bool,
    /// TLS `SignatureScheme` code points, best first.
    pub signatures: Vec<u16>,
    /// The server's order of ciphers counts, not the client's.
    pub server_precedence: bool,
    /// Tickets may be issued.
    pub tickets: bool,
    /// Smallest RSA modulus of a server certificate, bits; 0: no limit.
    pub min_rsa_bits: u32,
}

/// AEAD ciphers of TLS 1.2, TLS 1.3 and DTLS 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

/// Key exchange groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    /// X25519.
    X25519,
    /// NIST P-256.
    Secp256r1,
    /// NIST P-384.
    Secp384r1,
}

impl Default for TlsPolicy {
    /// The policy of `NORMAL:%SERVER_PRECEDENCE:%COMPAT`.
    fn default() -> Self {
        let state = State {
            server_precedence: true,
            tickets: true,
            ..State::starting(NORMAL)
        };
        state.policy()
    }
}

/// A string that was understood.
#[derive(Debug)]
pub struct Priorities {
    /// What may be negotiated.
    pub policy: TlsPolicy,
    /// Parts that cannot be served.
    pub warnings: Vec<String>,
}

/// Why a string is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriorityError {
    /// An item is not known.
    #[error("'{0}' is not a valid item")]
    Item(String),
    /// The string does not begin with a keyword.
    #[error("the string begins with '{0}' instead of a keyword")]
    Keyword(String),
    /// Versions with a hole between them.
    #[error("TLS 1.2 is off between versions that are on")]
    Hole,
    /// What is left cannot be served.
    #[error("{0}")]
    Unservable(&'static str),
}

impl PriorityError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Item(_) => "correct or remove the item",
            Self::Keyword(_) => "begin with NORMAL",
            Self::Hole => "remove the older versions",
            Self::Unservable(_) => {
                "the gateway serves TLS 1.2 and 1.3 with ECDHE and AES-GCM or CHACHA20-POLY1305"
            }
        }
    }
}

/// Reads a priority string. Names may be in any case.
pub fn parse(text: &str) -> Result<Priorities, PriorityError> {
    let mut words = text.split(':').map(str::trim);
    let first = words.next().unwrap_or_default();
    let keyword = items::keyword(&first.to_ascii_uppercase());
    let keyword = keyword.ok_or_else(|| PriorityError::Keyword(first.to_owned()))?;
    let mut state = State {
        tickets: true,
        ..State::default()
    };
    state.selected = keyword;
    if first.eq_ignore_ascii_case("SUITEB128") || first.eq_ignore_ascii_case("SUITEB192") {
        state.min_rsa_bits = SUITE_B_RSA_BITS;
    }
    for word in words {
        state.word(word)?;
    }
    state.finish()
}

const NORMAL: &str = "NORMAL";
const SUITE_B_RSA_BITS: u32 = 3072;

/// The string's effect so far.
#[derive(Default)]
struct State {
    /// Served items, best first within their category.
    selected: Vec<&'static str>,
    /// Older TLS versions that the string switched on.
    old_versions: Vec<String>,
    ciphers_named: bool,
    server_precedence: bool,
    tickets: bool,
    min_rsa_bits: u32,
    warnings: Vec<String>,
}

impl State {
    fn starting(keyword: &str) -> Self {
        Self {
            selected: items::keyword(keyword).unwrap_or_default(),
            ..Self::default()
        }
    }

    fn word(&mut self, word: &str) -> Result<(), PriorityError> {
        let bad = || PriorityError::Item(word.to_owned());
        let upper = word.to_ascii_uppercase();
        if let Some(option) = upper.strip_prefix('%') {
            match items::option(option).ok_or_else(bad)? {
                Effect::ServerPrecedence => self.server_precedence = true,
                Effect::NoTickets => self.tickets = false,
                Effect::MinRsaBits(bits) => self.min_rsa_bits = bits,
                Effect::None => {}
            }
            return Ok(());
        }
        let mut characters = upper.chars();
        let add = match characters.next() {
            Some('+') => true,
            Some('-' | '!') => false,
            _ => return Err(bad()),
        };
        let name = characters.as_str();
        if let Some(items) = items::keyword(name).filter(|_| !name.starts_with('@')) {
            self.change(add, &items);
            return Ok(());
        }
        match items::find(name).ok_or_else(bad)? {
            Item::Served(item) => {
                self.ciphers_named |= add && items::category(item) == Category::Cipher;
                self.change(add, &[item]);
            }
            Item::All(category) => self.change_all(add, category),
            Item::Unserved(Category::Version, version) => self.old_version(add, version, word),
            Item::Unserved(category, _) => self.unserved(add, category, word),
        }
        Ok(())
    }

    fn change(&mut self, add: bool, items: &[&'static str]) {
        for item in items {
            if !add {
                self.selected.retain(|selected| selected != item);
            } else if !self.selected.contains(item) {
                self.selected.push(item);
            }
        }
    }

    fn change_all(&mut self, add: bool, category: Category) {
        let items: Vec<_> = items::served(category).collect();
        self.change(add, &items);
        match category {
            Category::Version if !add => self.old_versions.clear(),
            Category::Cipher if !add => self.ciphers_named = false,
            _ => {}
        }
    }

    fn old_version(&mut self, add: bool, version: String, word: &str) {
        self.old_versions.retain(|old| *old != version);
        if add {
            self.old_versions.push(version);
            self.warnings.push(format!("'{word}' cannot be served"));
        }
    }

    fn unserved(&mut self, add: bool, category: Category, word: &str) {
        // Hashes for CBC suites come with every string that names suites; they need no warning.
        if add && !matches!(category, Category::Nothing | Category::Mac) {
            self.warnings.push(format!("'{word}' cannot be served"));
        }
    }

    fn has(&self, item: &str) -> bool {
        self.selected.contains(&item)
    }

    fn names(&self, category: Category) -> impl Iterator<Item = &'static str> {
        self.selected
            .iter()
            .copied()
            .filter(move |name| items::category(name) == category)
    }

    /// What the selection amounts to, servable or not.
    fn policy(&self) -> TlsPolicy {
        let aead = self.has("AEAD");
        let ciphers: Vec<_> = self
            .names(Category::Cipher)
            .filter_map(items::cipher)
            .filter(|_| aead)
            .collect();
        TlsPolicy {
            tls12: self.has("VERS-TLS1.2"),
            tls13: self.has("VERS-TLS1.3"),
            dtls_ciphers: ciphers.clone(),
            ciphers,
            ciphers_named: self.ciphers_named,
            groups: self
                .names(Category::Group)
                .filter_map(items::group)
                .collect(),
            ecdhe_rsa: self.has("ECDHE-RSA"),
            ecdhe_ecdsa: self.has("ECDHE-ECDSA"),
            signatures: self
                .names(Category::Signature)
                .filter_map(items::signature)
                .collect(),
            server_precedence: self.server_precedence,
            tickets: self.tickets,
            min_rsa_bits: self.min_rsa_bits,
        }
    }

    fn finish(mut self) -> Result<Priorities, PriorityError> {
        let mut policy = self.policy();
        let unservable = |why| Err(PriorityError::Unservable(why));
        if !policy.tls12 && !policy.tls13 {
            return unservable("neither TLS 1.2 nor TLS 1.3 is on");
        }
        if !policy.tls12 && !self.old_versions.is_empty() {
            return Err(PriorityError::Hole);
        }
        if !self.has("AEAD") {
            return unservable("authenticated encryption (+AEAD) is off");
        }
        if policy.ciphers.is_empty() {
            return unservable("no cipher that can be served is on");
        }
        if policy.groups.is_empty() {
            return unservable("no group that can be served is on");
        }
        if policy.signatures.is_empty() {
            return unservable("no signature algorithm that can be served is on");
        }
        if policy.tls12 && !policy.ecdhe_rsa && !policy.ecdhe_ecdsa {
            if !policy.tls13 {
                return unservable("only key exchanges without ECDHE are on");
            }
            policy.tls12 = false;
            let text = "TLS 1.2 is off, as no ECDHE key exchange is on";
            self.warnings.push(text.to_owned());
        }
        Ok(Priorities {
            policy,
            warnings: self.warnings,
        })
    }
}
