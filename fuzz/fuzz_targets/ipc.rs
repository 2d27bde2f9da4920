//! See [`ocserv_fuzz::ipc`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::ipc(data));
