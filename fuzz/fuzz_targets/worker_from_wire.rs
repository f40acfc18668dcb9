#![no_main]

use std::time::Instant;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    corelane::dataplane::fuzz::worker_from_wire(Instant::now(), data);
});
