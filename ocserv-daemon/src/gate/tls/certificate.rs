//! Which certificate a client gets.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::signing::{RemoteKey, SignPool};
use crate::ipc::secmod::KeyInfo;

/// The certificates of a vhost.
#[derive(Debug)]
pub struct Certificates {
    keys: Vec<Certificate>,
}

#[derive(Debug)]
struct Certificate {
    schemes: Arc<[u16]>,
    usual: Arc<CertifiedKey>,
    /// By RSASSA-PSS scheme.
    pss: Vec<(u16, Arc<CertifiedKey>)>,
}

/// `rsa_pss_pss_sha256`, `_sha384`, `_sha512` (RFC 8446 §4.2.3).
fn is_rsassa_pss(scheme: u16) -> bool {
    (0x0809..=0x080b).contains(&scheme)
}

impl Certificates {
    /// Takes the vhost's keys; schemes outside `signatures` are not used, its order wins.
    pub fn new(
        vhost: u32,
        keys: &[KeyInfo],
        signatures: &[u16],
        ocsp: Option<&[u8]>,
        pool: &Arc<SignPool>,
    ) -> Self {
        let keys = keys
            .iter()
            .zip(0..)
            .map(|(info, index)| {
                let schemes = allowed(&info.schemes, signatures);
                // The staple belongs to the first certificate, as with the reference.
                let ocsp = ocsp.filter(|_| index == 0).map(<[u8]>::to_vec);
                certificate(vhost, index, info, schemes, ocsp, pool)
            })
            .collect();
        Self { keys }
    }

    /// For a client that offers these signature schemes, `offered` as in the ClientHello and
    /// `usable` cut by rustls to the common cipher suites (it drops what it does not know).
    fn choose(&self, offered: &[u16], usable: &[u16]) -> Option<Arc<CertifiedKey>> {
        self.keys.iter().find_map(|key| {
            key.schemes.iter().find_map(|scheme| {
                if is_rsassa_pss(*scheme) {
                    let pss = key.pss.iter().find(|(own, _)| own == scheme)?;
                    offered.contains(scheme).then(|| Arc::clone(&pss.1))
                } else {
                    usable.contains(scheme).then(|| Arc::clone(&key.usual))
                }
            })
        })
    }
}

fn allowed(schemes: &[u16], signatures: &[u16]) -> Arc<[u16]> {
    if signatures.is_empty() {
        return schemes.into();
    }
    signatures
        .iter()
        .copied()
        .filter(|scheme| schemes.contains(scheme))
        .collect()
}

fn certificate(
    vhost: u32,
    index: u32,
    info: &KeyInfo,
    schemes: Arc<[u16]>,
    ocsp: Option<Vec<u8>>,
    pool: &Arc<SignPool>,
) -> Certificate {
    let chain: Vec<CertificateDer<'static>> = info
        .chain
        .iter()
        .cloned()
        .map(CertificateDer::from)
        .collect();
    let with = |fixed| {
        let key = RemoteKey {
            pool: Arc::clone(pool),
            vhost,
            key: index,
            schemes: Arc::clone(&schemes),
            fixed,
        };
        Arc::new(CertifiedKey {
            cert: chain.clone(),
            key: Arc::new(key),
            ocsp: ocsp.clone(),
        })
    };
    let pss = schemes
        .iter()
        .copied()
        .filter(|scheme| is_rsassa_pss(*scheme));
    Certificate {
        pss: pss.map(|scheme| (scheme, with(Some(scheme)))).collect(),
        usual: with(None),
        schemes: Arc::clone(&schemes),
    }
}

/// Chooses for one connection.
#[derive(Debug)]
pub struct Resolver {
    /// The vhost's.
    pub certificates: Arc<Certificates>,
    /// Signature schemes of the ClientHello, uncut.
    pub offered: Vec<u16>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable: Vec<u16> = hello
            .signature_schemes()
            .iter()
            .map(|scheme| u16::from(*scheme))
            .collect();
        self.certificates.choose(&self.offered, &usable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(schemes: &[u16]) -> KeyInfo {
        KeyInfo {
            schemes: schemes.to_vec(),
            chain: vec![schemes[0].to_be_bytes().to_vec()],
        }
    }

    fn certificates(signatures: &[u16]) -> Certificates {
        let keys = [
            info(&[0x0809, 0x080a]),
            info(&[0x0403]),
            info(&[0x0804, 0x0401]),
        ];
        Certificates::new(0, &keys, signatures, None, &Arc::default())
    }

    fn chosen(certificates: &Certificates, offered: &[u16], usable: &[u16]) -> Option<Vec<u8>> {
        certificates
            .choose(offered, usable)
            .map(|key| key.cert[0].to_vec())
    }

    #[test]
    fn the_first_key_that_the_client_can_verify_is_used() {
        let all = certificates(&[]);
        assert_eq!(chosen(&all, &[0x0401], &[0x0401]).unwrap(), [8, 4]);
        assert_eq!(
            chosen(&all, &[0x0403, 0x0401], &[0x0403, 0x0401]).unwrap(),
            [4, 3]
        );
        assert_eq!(
            chosen(&all, &[0x0403, 0x0401], &[0x0401]).unwrap(),
            [8, 4],
            "no ECDSA suite"
        );
        assert_eq!(chosen(&all, &[0x0603], &[0x0603]), None);
    }

    #[test]
    fn an_rsassa_pss_key_is_chosen_by_the_uncut_list() {
        let all = certificates(&[]);
        let key = all.choose(&[0x080a, 0x0401], &[0x0401]).unwrap();
        assert_eq!(key.cert[0].as_ref(), [8, 9]);
        let signer = key.key.choose_scheme(&[]).unwrap();
        assert_eq!(u16::from(signer.scheme()), 0x080a);
    }

    #[test]
    fn the_policy_limits_and_orders_the_schemes() {
        let all = certificates(&[0x0401]);
        assert_eq!(
            chosen(&all, &[0x0403, 0x0401], &[0x0403, 0x0401]).unwrap(),
            [8, 4]
        );
    }
}
