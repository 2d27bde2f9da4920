//! See [`ocserv_fuzz::dtls_record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::dtls_record(data));
