//! The ChaCha20 block function (RFC 8439 §2.3), for a machine of ten registers.
//!
//! The second and the fourth row stay in registers; a word of the first or third is added to from memory,
//! where it is needed again only when four others have had their turn. The four quarters of a round go step
//! by step together, so that the processor finds independent work close by. Memory is accessed as written:
//! left to a compiler, words move twice as often.

const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
const DOUBLE_ROUNDS: u32 = 10;

type Row = [u32; 4];

/// Block number `counter` of the stream, as little-endian words.
#[inline(always)]
pub(super) fn keystream(key: &[u32; 8], nonce: &[u32; 3], counter: u32) -> [u64; 8] {
    let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
    let [n0, n1, n2] = *nonce;
    let mut first = CONSTANTS;
    let mut third = [k4, k5, k6, k7];
    let mut second = [k0, k1, k2, k3];
    let mut fourth = [counter, n0, n1, n2];
    for _ in 0..DOUBLE_ROUNDS {
        round::<0>(&mut first, &mut second, &mut third, &mut fourth);
        round::<1>(&mut first, &mut second, &mut third, &mut fourth);
    }
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let constant = |n: usize| get(&first[n]).wrapping_add(CONSTANTS[n]);
    let low_key = |n: usize| second[n].wrapping_add(get(&key[n]));
    let high_key = |n: usize| get(&third[n]).wrapping_add(get(&key[4 + n]));
    let last = |n: usize| fourth[n].wrapping_add(get(&nonce[n - 1]));
    [
        pair(constant(0), constant(1)),
        pair(constant(2), constant(3)),
        pair(low_key(0), low_key(1)),
        pair(low_key(2), low_key(3)),
        pair(high_key(0), high_key(1)),
        pair(high_key(2), high_key(3)),
        pair(fourth[0].wrapping_add(counter), last(1)),
        pair(last(2), last(3)),
    ]
}

/// A round, on columns (0) or diagonals (1).
#[inline(always)]
fn round<const DIAGONAL: usize>(a: &mut Row, b: &mut Row, c: &mut Row, d: &mut Row) {
    // How far the rows are turned against the first.
    let (of_b, of_c, of_d) = (DIAGONAL, 2 * DIAGONAL, 3 * DIAGONAL);
    let place = |n: usize, turned: usize| (n + turned) % 4;
    for n in 0..4 {
        let (b, d) = (b[place(n, of_b)], &mut d[place(n, of_d)]);
        *d = rotate::<16>(step(&mut a[n], b, *d));
    }
    for n in 0..4 {
        let (d, b) = (d[place(n, of_d)], &mut b[place(n, of_b)]);
        *b = rotate::<12>(step(&mut c[place(n, of_c)], d, *b));
    }
    for n in 0..4 {
        let (b, d) = (b[place(n, of_b)], &mut d[place(n, of_d)]);
        *d = rotate::<8>(step(&mut a[n], b, *d));
    }
    for n in 0..4 {
        let (d, b) = (d[place(n, of_d)], &mut b[place(n, of_b)]);
        *b = rotate::<7>(step(&mut c[place(n, of_c)], d, *b));
    }
}

/// Adds a word to one in memory, and the sum, without carry, to a third.
#[inline(always)]
fn step(sum: &mut u32, word: u32, other: u32) -> u32 {
    let new = get(sum).wrapping_add(word);
    put(sum, new);
    other ^ new
}

/// Reads a word where it lies, each time.
#[inline(always)]
fn get(word: &u32) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(word) }
}

/// Writes it there.
#[inline(always)]
fn put(word: &mut u32, value: u32) {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::write_volatile(word, value) }
}

#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn rotate<const LEFT: u32>(word: u32) -> u32 {
    word.rotate_left(LEFT)
}

/// As the compiler would do it, but where it stands: the order of the steps is what keeps words out of
/// memory.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn rotate<const LEFT: u32>(mut word: u32) -> u32 {
    // SAFETY: two registers, one of them free.
    unsafe {
        core::arch::asm!(
            "{other} = {word}",
            "{other} >>= {right}",
            "{word} <<= {left}",
            "{word} |= {other}",
            word = inout(wreg) word,
            other = out(wreg) _,
            left = const LEFT,
            right = const 32 - LEFT,
            options(nomem, nostack),
        );
    }
    word
}
