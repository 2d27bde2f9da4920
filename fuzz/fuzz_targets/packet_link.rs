//! See [`ocserv_fuzz::packet_link`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocserv_fuzz::packet_link(data));
