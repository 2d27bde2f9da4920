//! See [`ocserv_fuzz::ip`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::ip(data));
