//! The same records with the AEAD of user space.

use std::time::Instant;

use anyhow::{Result, ensure};
use ocserv_common::replay::ReplayWindow;
use ocserv_proto::dtls::{Cipher, DtlsChannel};

use super::bed::{DATA, keys, reversed};
use super::samples::Samples;

/// Records that are timed together: the clock costs as much as some do.
const BATCH: usize = 32;

/// Both directions of a channel.
pub struct UserSpace {
    server: DtlsChannel,
    client: DtlsChannel,
    window: ReplayWindow,
    next: u64,
}

impl UserSpace {
    /// A channel of this cipher.
    ///
    /// # Errors
    /// None that can be seen.
    pub fn new(cipher: Cipher) -> Result<Self> {
        Ok(Self {
            server: DtlsChannel::new(&keys(cipher))?,
            client: DtlsChannel::new(&reversed(keys(cipher)))?,
            window: ReplayWindow::new(),
            next: 1,
        })
    }

    /// Opens and seals a batch around payloads of `len` bytes; adds the mean of each.
    ///
    /// # Errors
    /// When a record does not open.
    pub fn measure(&mut self, len: usize, open: &mut Samples, seal: &mut Samples) -> Result<()> {
        let start = self.client.headroom();
        let mut records = vec![vec![0; len + self.client.overhead()]; BATCH];
        let first = self.next;
        self.next += BATCH as u64;
        for (sequence, record) in (first..).zip(&mut records) {
            self.client
                .seal_in_place(sequence, DATA, record, start..start + len)?;
        }
        let begin = Instant::now();
        let opened = records
            .iter_mut()
            .map(|record| self.server.open(record, &self.window))
            .filter(Result::is_ok)
            .count();
        open.add(mean(begin));
        ensure!(opened == BATCH, "a record did not open");
        let begin = Instant::now();
        for (sequence, record) in (first..).zip(&mut records) {
            self.server
                .seal_in_place(sequence, DATA, record, start..start + len)?;
        }
        seal.add(mean(begin));
        Ok(())
    }
}

fn mean(begin: Instant) -> f64 {
    begin.elapsed().as_nanos() as f64 / BATCH as f64
}
