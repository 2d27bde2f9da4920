//! The ChaCha20 block function (RFC 8439 §2.3).

const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
const DOUBLE_ROUNDS: usize = 10;

/// Block number `counter` of the stream, as little-endian words.
#[inline(always)]
pub(super) fn keystream(key: &[u32; 8], nonce: &[u32; 3], counter: u32) -> [u64; 8] {
    let [c0, c1, c2, c3] = CONSTANTS;
    let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
    let [n0, n1, n2] = *nonce;
    let mut state = [
        c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, counter, n0, n1, n2,
    ];
    for _ in 0..DOUBLE_ROUNDS {
        quarter::<0, 4, 8, 12>(&mut state);
        quarter::<1, 5, 9, 13>(&mut state);
        quarter::<2, 6, 10, 14>(&mut state);
        quarter::<3, 7, 11, 15>(&mut state);
        quarter::<0, 5, 10, 15>(&mut state);
        quarter::<1, 6, 11, 12>(&mut state);
        quarter::<2, 7, 8, 13>(&mut state);
        quarter::<3, 4, 9, 14>(&mut state);
    }
    let word = |n: usize, start: u32| u64::from(state[n].wrapping_add(start));
    let pair = |n: usize, low: u32, high: u32| word(n, low) | word(n + 1, high) << 32;
    let key = |n: usize| pair(4 + n, again(&key[n]), again(&key[n + 1]));
    [
        pair(0, c0, c1),
        pair(2, c2, c3),
        key(0),
        key(2),
        key(4),
        key(6),
        pair(12, counter, again(&nonce[0])),
        pair(14, again(&nonce[1]), again(&nonce[2])),
    ]
}

/// Reads a word once more where it lies: a kernel program has no registers to keep it in, and little
/// stack.
#[inline(always)]
fn again(word: &u32) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(word) }
}

#[inline(always)]
fn quarter<const A: usize, const B: usize, const C: usize, const D: usize>(s: &mut [u32; 16]) {
    s[A] = s[A].wrapping_add(s[B]);
    s[D] = (s[D] ^ s[A]).rotate_left(16);
    s[C] = s[C].wrapping_add(s[D]);
    s[B] = (s[B] ^ s[C]).rotate_left(12);
    s[A] = s[A].wrapping_add(s[B]);
    s[D] = (s[D] ^ s[A]).rotate_left(8);
    s[C] = s[C].wrapping_add(s[D]);
    s[B] = (s[B] ^ s[C]).rotate_left(7);
}
