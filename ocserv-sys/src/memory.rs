//! Memory that a process keeps without need: what the allocator holds back, and the pages of code that
//! only ran at the start.

use std::ptr::null_mut;

use nix::unistd::{SysconfVar, sysconf};

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
    trim();
}

fn trim() {
    // SAFETY: releases pages without allocations in them.
    unsafe { libc::malloc_trim(0) };
}

/// Gives back what only the start needed: free memory, and the mapped pages of programs and libraries that
/// were not written to. Those come again from the page cache where they are still used.
pub fn give_back() {
    trim();
    // SAFETY: the callback keeps what `dl_iterate_phdr` asks of it, and uses no data.
    unsafe { libc::dl_iterate_phdr(Some(unmap_unwritten), null_mut()) };
}

/// Unmaps the segments of an object that nobody can have written to.
extern "C" fn unmap_unwritten(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader passes a description that is valid during the call.
    let Some(object) = (unsafe { object.as_ref() }) else {
        return 0;
    };
    for index in 0..usize::from(object.dlpi_phnum) {
        // SAFETY: there are `dlpi_phnum` headers.
        let header = unsafe { object.dlpi_phdr.add(index) };
        // SAFETY: as above; they stay as long as the object is loaded.
        let header = unsafe { header.read() };
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = object.dlpi_addr.wrapping_add(header.p_vaddr);
            unmap_pages(start, start.wrapping_add(header.p_memsz));
        }
    }
    0
}

/// Unmaps the whole pages between two addresses; they are read from their file again when needed.
fn unmap_pages(start: u64, end: u64) {
    let Ok(Some(page)) = sysconf(SysconfVar::PAGE_SIZE) else {
        return;
    };
    let page = page.unsigned_abs();
    let (start, end) = (start.next_multiple_of(page), end / page * page);
    let (Ok(start), Ok(len)) = (
        usize::try_from(start),
        usize::try_from(end.saturating_sub(start)),
    ) else {
        return;
    };
    let start = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the pages are those of a segment that is mapped without the right to write. So they hold
    // what the file holds, and that is what the next access finds.
    unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
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
    fn program_and_libraries_go_and_come_again() {
        let before = resident_kib("RssFile:");
        give_back();
        let after = resident_kib("RssFile:");
        assert!(after < before, "{after} KiB after {before}");
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
