//! Memory that the allocator holds back without need.

/// Allocations from this size on (bytes) are mappings of their own: they take memory only where they are
/// written to, and give it back when freed. Below all buffers that are kept, above what comes and goes
/// with a packet.
const LARGE: libc::c_int = 64 * 1024;
/// Free bytes at the end of the heap that are given back.
const TRIM: libc::c_int = 128 * 1024;

/// Bytes that the heap grows by beyond what is asked for. With less free at its end than [`LARGE`], large
/// allocations do become mappings; from the end of the heap they would be overwritten with zeroes.
const PAD: libc::c_int = 16 * 1024;

/// Makes the allocator thrifty. Belongs before the first thread.
///
/// One arena for all threads, since few allocate at a time; and fixed thresholds, which else rise with
/// the largest allocation that was ever freed.
pub fn keep_less() {
    let settings = [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, TRIM),
        (libc::M_TOP_PAD, PAD),
    ];
    for (parameter, value) in settings {
        // SAFETY: sets a number of the allocator. One that it refuses stays as it was.
        unsafe { libc::mallopt(parameter, value) };
    }
    give_back();
}

/// Gives back the free memory that the start left behind.
pub fn give_back() {
    // SAFETY: releases pages without allocations in them.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_kib(kind: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(kind));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
        kib.unwrap().trim().parse().unwrap()
    }

    #[test]
    fn free_memory_below_other_memory_goes() {
        const COUNT: usize = 64 * 1024;
        keep_less();
        let mut blocks: Vec<Box<[u8; 1000]>> = (0..COUNT).map(|_| Box::new([1; 1000])).collect();
        let last = blocks.pop();
        drop(blocks);
        let before = resident_kib("RssAnon:");
        give_back();
        let after = resident_kib("RssAnon:");
        assert!(after + 32 * 1024 < before, "{after} KiB after {before}");
        assert_eq!(last.map(|block| block[999]), Some(1));
    }
}
