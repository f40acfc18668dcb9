#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::session::fuzz::replay_window(data));
