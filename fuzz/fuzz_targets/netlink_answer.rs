#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| corelane::host::netlink::fuzz::netlink_answer(data));
