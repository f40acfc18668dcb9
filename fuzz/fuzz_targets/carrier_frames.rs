#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::login::carrier::fuzz::frames(data));
