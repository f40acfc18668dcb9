#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::cli::fuzz::status_exchange(data));
