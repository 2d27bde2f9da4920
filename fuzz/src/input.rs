//! Choices drawn from the fuzzer's bytes.

/// Ends a segment: a byte that UTF-8 never has, so that a text by itself is one segment.
const SEPARATOR: u8 = 0xff;

/// The bytes between separators; at least one segment, maybe empty.
pub(crate) fn segments(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == SEPARATOR)
}

/// Text for a place that takes any.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Numbers that follow from the data, for choices that need no bytes of their own.
pub(crate) struct Choices(u64);

impl Choices {
    pub(crate) fn new(data: &[u8]) -> Self {
        // FNV-1a; xorshift must not begin with 0.
        let hash = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % bound
    }

    /// `data` cut into pieces, mostly short ones.
    pub(crate) fn pieces<'a>(&mut self, data: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = data;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let bound = [3, 17, 200, 5000][self.below(4) as usize];
            let length = (1 + self.below(bound) as usize).min(rest.len());
            let (piece, later) = rest.split_at(length);
            pieces.push(piece);
            rest = later;
        }
        pieces
    }
}

/// Values from the front of the data; zeros when it is used up.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes(N);
        std::array::from_fn(|at| taken.get(at).copied().unwrap_or_default())
    }

    pub(crate) fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// A text after its length byte.
    pub(crate) fn text(&mut self) -> String {
        let length = usize::from(self.byte());
        text(self.bytes(length))
    }
}
