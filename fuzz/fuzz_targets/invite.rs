#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::login::fuzz::invite(data));
