//! See [`ocserv_fuzz::xml`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::xml(data));
