//! What the documents promise to cover, they cover.

#![expect(clippy::unwrap_used, reason = "a document that cannot be read fails the test")]

use std::fs;
use std::path::Path;

use corelane::telemetry::drops::DropReason;

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_drop_reason_is_explained_to_operators() {
    let operations = document("docs/operations.md");
    for reason in DropReason::ALL {
        let row = format!("| `{}` | {}", reason.name(), reason.description());
        assert!(operations.contains(&row), "docs/operations.md lacks the row `{row}`");
    }
}

#[test]
fn every_direct_dependency_is_justified() {
    let manifest: toml::Table = document("Cargo.toml").parse().unwrap();
    let page = document("docs/dependencies.md");
    for table in ["dependencies", "dev-dependencies"] {
        for name in manifest[table].as_table().unwrap().keys() {
            assert!(page.contains(&format!("`{name}`")), "docs/dependencies.md lacks `{name}`");
        }
    }
}
