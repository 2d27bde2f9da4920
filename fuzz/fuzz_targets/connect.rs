//! See [`ocserv_fuzz::connect`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::connect(data));
