//! See [`ocserv_fuzz::offload`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::offload(data));
