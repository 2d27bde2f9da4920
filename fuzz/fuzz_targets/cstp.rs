//! See [`ocserv_fuzz::cstp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::cstp(data));
