#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::sys::udp::fuzz::control_message(data));
