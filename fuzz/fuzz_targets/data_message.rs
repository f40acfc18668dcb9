#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::session::fuzz::data_message(data));
