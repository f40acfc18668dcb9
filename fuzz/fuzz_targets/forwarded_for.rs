#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::proxy::fuzz::forwarded_for(data));
