//! CHACHA20-POLY1305 (RFC 8439) for DTLS records of at most [`MAX_TEXT`] bytes, as a kernel program can
//! run it: no table, no branch on a secret, loops with fixed bounds, all memory in one [`Sheet`].
//!
//! The text is encrypted or decrypted chunk by chunk while it is authenticated. When a record is
//! opened, what is on the sheet afterwards means nothing unless the tags are [`equal`].

mod chacha20;
mod poly1305;

use self::chacha20::keystream;
use self::poly1305::Poly1305;

/// Longest text, bytes.
pub const MAX_TEXT: usize = CHUNKS * CHUNK;
/// Longest additional data, bytes; DTLS has 13.
pub const MAX_AAD: usize = 16;

/// Bytes of a ChaCha20 block.
const CHUNK: usize = 64;
/// Most chunks of a text.
const CHUNKS: usize = 24;
/// Words of a chunk.
const CHUNK_WORDS: usize = CHUNK / 8;
/// Words of [`Sheet::body`]: a power of two, so that a masked index needs no check.
const BODY_WORDS: usize = 256;
/// Words before the text.
const AAD_WORDS: usize = 2;

/// A record and the key that it is worked on with. Words are little-endian.
#[derive(Clone)]
#[repr(C, align(8))]
pub struct Sheet {
    /// Key.
    pub key: [u32; 8],
    /// Nonce.
    pub nonce: [u32; 3],
    /// Bytes of the text.
    pub len: u32,
    /// Bytes of the additional data.
    pub aad_len: u32,
    /// Zero.
    pub padding: u32,
    /// Tag that the text has. The result.
    pub tag: [u64; 2],
    /// The additional data, padded with zeroes to 16 bytes, then the text. Behind the text's end there
    /// must be zeroes up to the next multiple of 16 bytes.
    pub body: [u64; BODY_WORDS],
}

impl Sheet {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            key: [0; 8],
            nonce: [0; 3],
            len: 0,
            aad_len: 0,
            padding: 0,
            tag: [0; 2],
            body: [0; BODY_WORDS],
        }
    }
}

impl Default for Sheet {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether two tags are the same; takes as long in any case.
pub fn equal(one: &[u64; 2], other: &[u64; 2]) -> bool {
    ((one[0] ^ other[0]) | (one[1] ^ other[1])) == 0
}

/// Encrypts the text and computes its tag. `false`: text or additional data are too long.
#[inline(always)]
pub fn seal(sheet: &mut Sheet) -> bool {
    run::<true>(sheet)
}

/// Decrypts the text and computes the tag that it should have had. `false`: text or additional data are
/// too long.
#[inline(always)]
pub fn open(sheet: &mut Sheet) -> bool {
    run::<false>(sheet)
}

#[inline(always)]
fn run<const SEALING: bool>(sheet: &mut Sheet) -> bool {
    let len = sheet.len as usize;
    if len > MAX_TEXT || sheet.aad_len as usize > MAX_AAD {
        return false;
    }
    let first = keystream(&sheet.key, &sheet.nonce, 0);
    let mut mac = Poly1305::new([first[0], first[1]], [first[2], first[3]]);
    if sheet.aad_len > 0 {
        mac.block(sheet.body[0], sheet.body[1]);
    }
    let whole = len / CHUNK;
    for chunk in 0..CHUNKS {
        if chunk >= whole {
            break;
        }
        let stream = keystream(&sheet.key, &sheet.nonce, chunk as u32 + 1);
        let start = AAD_WORDS + chunk * CHUNK_WORDS;
        whole_chunk::<SEALING>(&mut sheet.body, start, &stream, &mut mac);
    }
    if !len.is_multiple_of(CHUNK) {
        let stream = keystream(&sheet.key, &sheet.nonce, whole as u32 + 1);
        last_chunk::<SEALING>(sheet, whole, &stream, &mut mac);
    }
    mac.block(u64::from(sheet.aad_len), len as u64);
    sheet.tag = mac.finish();
    true
}

#[inline(always)]
fn whole_chunk<const SEALING: bool>(
    body: &mut [u64; BODY_WORDS],
    start: usize,
    stream: &[u64; CHUNK_WORDS],
    mac: &mut Poly1305,
) {
    for pair in 0..CHUNK_WORDS / 2 {
        let at = start + 2 * pair;
        let old = [body[at % BODY_WORDS], body[(at + 1) % BODY_WORDS]];
        let new = [old[0] ^ stream[2 * pair], old[1] ^ stream[2 * pair + 1]];
        body[at % BODY_WORDS] = new[0];
        body[(at + 1) % BODY_WORDS] = new[1];
        let ciphertext = if SEALING { new } else { old };
        mac.block(ciphertext[0], ciphertext[1]);
    }
}

/// The last one has less than [`CHUNK`] bytes; what is behind them stays zero.
#[inline(always)]
fn last_chunk<const SEALING: bool>(
    sheet: &mut Sheet,
    chunk: usize,
    stream: &[u64; CHUNK_WORDS],
    mac: &mut Poly1305,
) {
    let start = AAD_WORDS + chunk * CHUNK_WORDS;
    let rest = sheet.len as usize % CHUNK;
    for pair in 0..CHUNK_WORDS / 2 {
        if 16 * pair >= rest {
            break;
        }
        let at = start + 2 * pair;
        let left = rest - 16 * pair;
        let old = [
            sheet.body[at % BODY_WORDS],
            sheet.body[(at + 1) % BODY_WORDS],
        ];
        let new = [
            (old[0] ^ stream[2 * pair]) & first_bytes(left),
            (old[1] ^ stream[2 * pair + 1]) & first_bytes(left.saturating_sub(8)),
        ];
        sheet.body[at % BODY_WORDS] = new[0];
        sheet.body[(at + 1) % BODY_WORDS] = new[1];
        let ciphertext = if SEALING { new } else { old };
        mac.block(ciphertext[0], ciphertext[1]);
    }
}

/// A mask of the first `count` bytes of a word.
#[inline(always)]
fn first_bytes(count: usize) -> u64 {
    if count >= 8 {
        u64::MAX
    } else {
        (1 << (8 * count)) - 1
    }
}
