//! CHACHA20-POLY1305 (RFC 8439) for DTLS records of at most [`MAX_TEXT`] bytes, as a kernel program can
//! run it: no table, no branch on a secret, loops with fixed bounds, all memory in one [`Sheet`].
//!
//! When a record is opened, what is on the sheet afterwards means nothing unless the tags are [`equal`].

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
/// Bytes of a Poly1305 block.
const BLOCK: usize = 16;
/// Words of a chunk.
const CHUNK_WORDS: usize = CHUNK / 8;
/// Words of [`Sheet::body`]: a power of two, so that a masked index needs no check.
const BODY_WORDS: usize = 256;
/// Words of [`Sheet::room`].
const ROOM_WORDS: usize = 8;
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
    one_time: [u64; 4],
    /// Free, so that what stands before a record in a packet can be put before the text.
    pub room: [u64; ROOM_WORDS],
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
            one_time: [0; 4],
            room: [0; ROOM_WORDS],
            body: [0; BODY_WORDS],
        }
    }
}

impl Sheet {
    /// Puts zeroes where the text will end, before it is written: a text of [`Self::len`] bytes must be
    /// followed by some.
    #[inline(always)]
    pub fn clear_end(&mut self) {
        let at = AAD_WORDS + self.len as usize / BLOCK * 2;
        self.body[at % BODY_WORDS] = 0;
        self.body[(at + 1) % BODY_WORDS] = 0;
    }

    /// Overwrites the keys: working memory outlives the session.
    #[inline(always)]
    pub fn forget_keys(&mut self) {
        self.key = [0; 8];
        self.one_time = [0; 4];
    }

    /// Puts zeroes behind the text that is there, up to the next block.
    #[inline(always)]
    pub fn clear_behind(&mut self) {
        let len = self.len as usize;
        let at = AAD_WORDS + len / 8;
        self.body[at % BODY_WORDS] &= (1 << (len % 8 * 8)) - 1;
        if (len / 8).is_multiple_of(2) {
            self.body[(at + 1) % BODY_WORDS] = 0;
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
///
/// A program does the steps of this one by one, because they do not fit its stack together.
pub fn seal(sheet: &mut Sheet) -> bool {
    one_time_key(sheet);
    if !crypt(sheet) {
        return false;
    }
    sheet.clear_behind();
    authenticate(sheet)
}

/// Computes the tag that a ciphertext should have, then decrypts it. `false`: text or additional data
/// are too long.
pub fn open(sheet: &mut Sheet) -> bool {
    one_time_key(sheet);
    authenticate(sheet) && crypt(sheet)
}

/// Makes the key of the authenticator (RFC 8439 §2.6).
#[inline(always)]
pub fn one_time_key(sheet: &mut Sheet) {
    let stream = keystream(&sheet.key, &sheet.nonce, 0);
    sheet.one_time = [stream[0], stream[1], stream[2], stream[3]];
}

/// Encrypts or decrypts the text, in whole chunks: what lies behind it becomes garbage. `false`: it is
/// too long.
#[inline(always)]
pub fn crypt(sheet: &mut Sheet) -> bool {
    let chunks = (sheet.len as usize).div_ceil(CHUNK);
    for chunk in 0..CHUNKS {
        if chunk >= chunks {
            return true;
        }
        let stream = keystream(&sheet.key, &sheet.nonce, chunk as u32 + 1);
        let start = AAD_WORDS + chunk * CHUNK_WORDS;
        for (n, word) in stream.into_iter().enumerate() {
            sheet.body[(start + n) % BODY_WORDS] ^= word;
        }
    }
    chunks == CHUNKS
}

/// Computes the tag of additional data and ciphertext. `false`: one of them is too long.
#[inline(always)]
pub fn authenticate(sheet: &mut Sheet) -> bool {
    let [r0, r1, s0, s1] = sheet.one_time;
    let mut mac = Poly1305::new([r0, r1], [s0, s1]);
    let (len, aad_len) = (sheet.len as usize, sheet.aad_len as usize);
    if aad_len > MAX_AAD || len > MAX_TEXT {
        return false;
    }
    // Without additional data there is no block of it.
    let first = usize::from(aad_len == 0);
    let blocks = 1 + len.div_ceil(BLOCK);
    for block in 0..=MAX_TEXT / BLOCK {
        if block >= blocks {
            break;
        }
        if block >= first {
            let at = 2 * block;
            mac.block(
                sheet.body[at % BODY_WORDS],
                sheet.body[(at + 1) % BODY_WORDS],
            );
        }
    }
    mac.block(aad_len as u64, len as u64);
    sheet.tag = mac.finish();
    true
}
