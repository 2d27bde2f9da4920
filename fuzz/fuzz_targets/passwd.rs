//! See [`ocserv_fuzz::passwd`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::passwd(data));
