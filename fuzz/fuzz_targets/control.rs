//! See [`ocserv_fuzz::control`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::control(data));
