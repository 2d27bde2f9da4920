//! Where packets are read to.

/// Fixed buffers for packets.
pub struct PacketBatch {
    storage: Vec<u8>,
    lens: Vec<usize>,
    buffer_len: usize,
    capacity: usize,
}

impl PacketBatch {
    /// Room for `capacity` packets of at most `buffer_len` bytes.
    pub fn new(capacity: usize, buffer_len: usize) -> Self {
        Self {
            storage: vec![0; capacity * buffer_len],
            lens: Vec::with_capacity(capacity),
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

    pub(super) fn push(&mut self, len: usize) {
        self.lens.push(len);
    }
}
