#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::wire::fuzz::path_message(data));
