//! See [`ocserv_fuzz::http`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::http(data));
