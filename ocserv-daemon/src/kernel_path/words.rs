//! What the programs say, seldom, to the administrator.

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::KernelPath;

/// Passes lines of programs on to the server's log.
pub struct Words;

impl log::Log for Words {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        match record.level() {
            log::Level::Error => tracing::error!("kernel path: {}", record.args()),
            log::Level::Warn => tracing::warn!("kernel path: {}", record.args()),
            log::Level::Info => tracing::info!("kernel path: {}", record.args()),
            _ => tracing::debug!("kernel path: {}", record.args()),
        }
    }

    fn flush(&self) {}
}

/// The ring that programs write to.
pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<EbpfLogger<Words>> {
    Ok(EbpfLogger::init_with_logger(ebpf, Words)?)
}

impl KernelPath {
    /// Logs what the programs have said since the last call.
    pub fn log_words(&mut self) {
        self.words.flush();
    }
}
