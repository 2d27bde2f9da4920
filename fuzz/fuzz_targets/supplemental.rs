//! See [`ocserv_fuzz::supplemental`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::supplemental(data));
