//! Which ciphers a tunnel's handshakes may choose (protocol.md 8.3). The server's order counts.

use ocserv_proto::config::{Cipher, TlsPolicy};

/// The cipher that the kernel path can open and seal.
const KERNEL_CIPHER: Cipher = Cipher::Chacha20Poly1305;

/// Those of `tls-priorities`, best first. For the kernel path its cipher comes first where the
/// string allows it, unless the string names ciphers: then their order was chosen.
pub fn preferred(policy: &TlsPolicy, kernel_path: bool) -> Vec<Cipher> {
    let mut ciphers = policy.dtls_ciphers.clone();
    if kernel_path && !policy.ciphers_named {
        // The sort is stable: the others keep their order.
        ciphers.sort_by_key(|cipher| *cipher != KERNEL_CIPHER);
    }
    ciphers
}

/// With `match-tls-dtls-ciphers`: that of the TLS session `tls` if it is allowed.
pub fn matching(policy: &TlsPolicy, tls: Option<Cipher>) -> Vec<Cipher> {
    let fits = |cipher: &Cipher| tls.is_none_or(|tls| tls == *cipher);
    policy.dtls_ciphers.iter().copied().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use ocserv_proto::config::Cipher::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    use ocserv_proto::config::priorities::parse;

    use super::*;

    fn policy(priorities: &str) -> TlsPolicy {
        parse(priorities).unwrap().policy
    }

    #[test]
    fn the_kernel_paths_cipher_comes_first() {
        for text in [
            "NORMAL",
            "NORMAL:%SERVER_PRECEDENCE:%COMPAT:-VERS-TLS1.3",
            "@SYSTEM",
        ] {
            let policy = policy(text);
            let kernel = [Chacha20Poly1305, Aes256Gcm, Aes128Gcm];
            assert_eq!(preferred(&policy, true), kernel, "{text}");
            let user = [Aes256Gcm, Chacha20Poly1305, Aes128Gcm];
            assert_eq!(preferred(&policy, false), user, "{text}");
        }
        let performance = policy("PERFORMANCE");
        let kernel = [Chacha20Poly1305, Aes128Gcm, Aes256Gcm];
        assert_eq!(preferred(&performance, true), kernel);
        let long = policy("SECURE256");
        assert_eq!(preferred(&long, true), [Chacha20Poly1305, Aes256Gcm]);
    }

    #[test]
    fn an_order_that_was_chosen_stays() {
        let long = policy("NORMAL:-CIPHER-ALL:+AES-256-GCM:+CHACHA20-POLY1305");
        assert_eq!(preferred(&long, true), [Aes256Gcm, Chacha20Poly1305]);
        let last = policy("NORMAL:-CHACHA20-POLY1305:+CHACHA20-POLY1305");
        let chosen = [Aes256Gcm, Aes128Gcm, Chacha20Poly1305];
        assert_eq!(preferred(&last, true), chosen);
    }

    #[test]
    fn what_is_excluded_is_not_offered() {
        for text in ["NORMAL:-CHACHA20-POLY1305", "NORMAL:!chacha20-poly1305"] {
            let ciphers = preferred(&policy(text), true);
            assert_eq!(ciphers, [Aes256Gcm, Aes128Gcm], "{text}");
        }
        assert_eq!(preferred(&policy("SUITEB192"), true), [Aes256Gcm]);
    }

    #[test]
    fn the_cipher_of_tls_decides_where_they_must_match() {
        let normal = policy("NORMAL");
        assert_eq!(matching(&normal, Some(Aes256Gcm)), [Aes256Gcm]);
        let all = [Aes256Gcm, Chacha20Poly1305, Aes128Gcm];
        assert_eq!(matching(&normal, None), all);
        let long = policy("SECURE256");
        assert_eq!(matching(&long, Some(Aes128Gcm)), []);
    }
}
