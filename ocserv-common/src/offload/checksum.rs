//! The Internet checksum (RFC 1071), by machine words.

/// Ones'-complement sum of the big-endian words of `bytes`, at most 0xffff; an odd last byte counts
/// as the high half of a word. `bytes` are at most 64 KiB.
#[inline]
pub fn sum(bytes: &[u8]) -> u32 {
    // The sum commutes with the order of bytes, so words are added as the machine has them. A half
    // each keeps the carries: 2^13 words cannot fill 64 bits.
    let (words, rest) = bytes.as_chunks::<8>();
    let total: u64 = words
        .iter()
        .map(|word| u64::from_ne_bytes(*word))
        .map(|word| (word & 0xffff_ffff) + (word >> 32))
        .sum();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let last = u64::from_ne_bytes(last);
    let total = total + (last & 0xffff_ffff) + (last >> 32);
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    u32::from(u16::from_be(fold(total as u32)))
}

/// A sum of sums in 16 bits.
#[inline]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1): `addresses` are both, 8 or 32 bytes.
#[inline]
pub fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u32 {
    // One packet's length has 16 bits.
    sum(addresses) + u32::from(protocol) + (len as u32 & 0xffff)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_words(bytes: &[u8]) -> u16 {
        let sum = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
            .sum();
        fold(sum)
    }

    #[test]
    fn sums_rfc_1071_s_example() {
        assert_eq!(sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xab]), 0xab00);
    }

    proptest! {
        #[test]
        fn equals_the_sum_of_words(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(sum(&bytes), u32::from(by_words(&bytes)));
        }

        #[test]
        fn carries_are_kept(len in 0usize..65_536) {
            let bytes = vec![0xff; len];
            prop_assert_eq!(sum(&bytes), u32::from(by_words(&bytes)));
        }
    }
}
