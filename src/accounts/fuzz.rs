//! What fuzzing calls (`fuzz/fuzz_targets/account_operation.rs`).

use crate::accounts::operations::Operation;

/// Reads bytes as an operation, as they come from the accounts socket. What is one is the same one
/// when it is said again, and its secrets are not told by `Debug`.
///
/// # Panics
/// If it is not.
pub fn operation(data: &[u8]) {
    let Ok(operation) = serde_json::from_slice::<Operation>(data) else { return };
    let said = serde_json::to_vec(&operation).unwrap_or_default();
    let again = serde_json::from_slice::<Operation>(&said);
    let again = again.map(|again| serde_json::to_vec(&again).unwrap_or_default());
    assert_eq!(again.ok(), Some(said));
}
