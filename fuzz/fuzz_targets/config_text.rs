//! The text of a configuration: any bytes are accepted or refused with a report.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match corelane::config::check_bytes("fuzz", bytes) {
        Ok((_, report)) => drop(report.to_string()),
        Err(error) => drop(error.to_string()),
    }
});
