//! Poly1305 (RFC 8439 §2.5) in words of 32 bits.
//!
//! The accumulator is `h0 + h1·2³² + h2·2⁶⁴ + h3·2⁹⁶ + h4·2¹²⁸`. Clamping leaves 28 bits in each word of
//! `r` and makes `r1` to `r3` multiples of 4, so that what reaches 2¹²⁸ can be given back at once: with
//! `2¹³⁰ ≡ 5`, `2¹²⁸·x·r = 2¹³⁰·x·(r/4) ≡ 5·x·(r/4)`. All sums of products fit 64 bits:
//!
//! - between blocks `h0` to `h3` are below 2³² and `h4` is at most 4;
//! - with the block added, words are below 2³³ and the top one is at most 5;
//! - a product is below 2³³ · 1.25·2²⁸, and there are at most four, and one with the top word.

/// An authenticator.
pub(super) struct Poly1305 {
    r: [u64; 4],
    /// `5·(r/4)`, rounded down.
    r5: [u64; 4],
    h: [u64; 5],
    pad: [u64; 2],
}

const LOW: u64 = 0xffff_ffff;

impl Poly1305 {
    /// From the two halves of the one-time key.
    #[inline(always)]
    pub(super) fn new(r: [u64; 2], pad: [u64; 2]) -> Self {
        let r = [
            r[0] & 0x0fff_ffff,
            r[0] >> 32 & 0x0fff_fffc,
            r[1] & 0x0fff_fffc,
            r[1] >> 32 & 0x0fff_fffc,
        ];
        Self {
            r,
            r5: [
                (r[0] >> 2) * 5,
                (r[1] >> 2) * 5,
                (r[2] >> 2) * 5,
                (r[3] >> 2) * 5,
            ],
            h: [0; 5],
            pad,
        }
    }

    /// Takes 16 bytes.
    #[inline(always)]
    pub(super) fn block(&mut self, low: u64, high: u64) {
        let [r0, r1, r2, r3] = self.r;
        let [q0, q1, q2, q3] = self.r5;
        let s0 = self.h[0] + (low & LOW);
        let s1 = self.h[1] + (low >> 32);
        let s2 = self.h[2] + (high & LOW);
        let s3 = self.h[3] + (high >> 32);
        let s4 = self.h[4] + 1;
        let x0 = s0 * r0 + s1 * q3 + s2 * q2 + s3 * q1 + s4 * q0;
        let x1 = s0 * r1 + s1 * r0 + s2 * q3 + s3 * q2 + s4 * q1;
        let x2 = s0 * r2 + s1 * r1 + s2 * r0 + s3 * q3 + s4 * q2;
        let x3 = s0 * r3 + s1 * r2 + s2 * r1 + s3 * r0 + s4 * q3;
        let top = s4 * (r0 & 3) + (x3 >> 32);
        let u0 = (x0 & LOW) + (top >> 2) * 5;
        let u1 = (x1 & LOW) + (x0 >> 32) + (u0 >> 32);
        let u2 = (x2 & LOW) + (x1 >> 32) + (u1 >> 32);
        let u3 = (x3 & LOW) + (x2 >> 32) + (u2 >> 32);
        let u4 = (top & 3) + (u3 >> 32);
        self.h = [u0 & LOW, u1 & LOW, u2 & LOW, u3 & LOW, u4];
    }

    /// The tag.
    #[inline(always)]
    pub(super) fn finish(self) -> [u64; 2] {
        let [h0, h1, h2, h3, h4] = self.h;
        // h + 5 reaches 2¹³⁰ exactly when h is at least 2¹³⁰ - 5; its quotient says how often.
        let carry = (h0 + 5) >> 32;
        let carry = (h1 + carry) >> 32;
        let carry = (h2 + carry) >> 32;
        let carry = (h3 + carry) >> 32;
        let over = (h4 + carry) >> 2;
        // The sum modulo 2¹²⁸: what is above falls away.
        let t0 = h0 + 5 * over + (self.pad[0] & LOW);
        let t1 = h1 + (self.pad[0] >> 32) + (t0 >> 32);
        let t2 = h2 + (self.pad[1] & LOW) + (t1 >> 32);
        let t3 = h3 + (self.pad[1] >> 32) + (t2 >> 32);
        [t0 & LOW | t1 << 32, t2 & LOW | t3 << 32]
    }
}
