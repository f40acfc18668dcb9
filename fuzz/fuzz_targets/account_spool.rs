#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::accounts::journal::fuzz::spool(data));
