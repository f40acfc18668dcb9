//! What a fuzz target calls, and `tests/corpora.rs` with every file of its corpus.

use super::message::{Answer, RecordType, question, read};

/// Reads `data` as the answer to a question, and as that question itself.
pub fn dns_answer(data: &[u8]) {
    for wanted in [RecordType::A, RecordType::Aaaa] {
        let Some(question) = question(0x1234, "vpn.example.org", wanted) else { return };
        if let Some(Answer::Addresses(found)) = read(&question, data, wanted) {
            assert!(found.iter().all(|it| it.is_ipv4() == (wanted == RecordType::A)));
            assert!(found.len() <= data.len(), "every address takes its bytes");
        }
        let _ = read(data, data, wanted);
    }
}
