#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::bench::fuzz::bench_message(data));
