//! See [`ocserv_fuzz::login`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::login(data));
