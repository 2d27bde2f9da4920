//! See [`ocserv_fuzz::priorities`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::priorities(data));
