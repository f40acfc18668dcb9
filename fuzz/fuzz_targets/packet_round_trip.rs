#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::packet::fuzz::round_trip(data));
