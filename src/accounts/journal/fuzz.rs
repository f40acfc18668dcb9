//! What fuzzing calls (`fuzz/fuzz_targets/account_spool.rs`).

use crate::accounts::journal::spool::parse;
use crate::accounts::journal::state::batch;

/// Reads bytes as a spool. What stands behind the last whole record must not matter.
///
/// # Panics
/// If it does.
pub fn spool(data: &[u8]) {
    let Some(content) = parse(data) else { return };
    assert_eq!(parse(&data[..content.valid_len]).as_ref(), Some(&content));
    for record in &content.records {
        // Any outcome is fine but a panic.
        let _ = batch(record);
    }
}
