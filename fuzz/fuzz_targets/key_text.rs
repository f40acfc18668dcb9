#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::handshake::fuzz::key_text(data));
