#![no_main]

use std::time::Instant;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    corelane::handshake::fuzz::initiation(Instant::now(), data);
});
