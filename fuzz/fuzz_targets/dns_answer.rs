#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::host::resolver::fuzz::dns_answer(data));
