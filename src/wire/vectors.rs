//! Test vectors: computed values are compared with the files under `tests/vectors/`.
//!
//! With `CORELANE_WRITE_VECTORS=1` in the environment the files are written instead, which a change
//! of the protocol needs and nothing else.

use std::path::Path;

use serde_json::{Map, Value, json};

/// Fails unless the file `name` holds exactly `computed`.
pub(crate) fn check(name: &str, computed: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    if std::env::var_os("CORELANE_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(computed).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let stored: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(*computed, stored, "{name} differs from what the code computes");
}

/// A JSON object of byte strings in hexadecimal, in the order given.
pub(crate) fn hex_object(fields: &[(&str, &[u8])]) -> Value {
    let entries = fields.iter().map(|(name, bytes)| (String::from(*name), hex(bytes)));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// Bytes in hexadecimal, as a JSON string.
pub(crate) fn hex(bytes: &[u8]) -> Value {
    json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The 32 bytes that count up from `first`.
pub(crate) fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first + i as u8)
}
