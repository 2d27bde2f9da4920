//! Where packets are read to.

/// Fixed buffers for packets.
pub struct PacketBatch {
    storage: Vec<u8>,
    lens: Vec<usize>,
    /// Whether each is the first of what was read at once.
    firsts: Vec<bool>,
    buffer_len: usize,
    capacity: usize,
}

impl PacketBatch {
    /// Room for `capacity` packets of at most `buffer_len` bytes.
    pub fn new(capacity: usize, buffer_len: usize) -> Self {
        Self {
            storage: vec![0; capacity * buffer_len],
            lens: Vec::with_capacity(capacity),
            firsts: Vec::with_capacity(capacity),
            buffer_len,
            capacity,
        }
    }

    /// Number of packets in it.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// Forgets the packets.
    pub fn clear(&mut self) {
        self.lens.clear();
        self.firsts.clear();
    }

    /// Longest packet that it has room for, in bytes.
    pub(super) fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// Packet number `index`.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn packet(&self, index: usize) -> &[u8] {
        let start = index * self.buffer_len;
        &self.storage[start..start + self.lens[index]]
    }

    pub(super) fn free(&mut self) -> Option<&mut [u8]> {
        let index = self.lens.len();
        if index == self.capacity {
            return None;
        }
        let start = index * self.buffer_len;
        Some(&mut self.storage[start..start + self.buffer_len])
    }

    /// Whether packet number `index` is the first of what was read at once.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn begins_read(&self, index: usize) -> bool {
        self.firsts[index]
    }

    pub(super) fn push(&mut self, len: usize, first: bool) {
        self.lens.push(len);
        self.firsts.push(first);
    }
}
