//! What a fuzz target calls, and `tests/corpora.rs` with every file of its corpus.

use super::protocol::{Answer, DATAGRAM_HEADER_LEN, DatagramHeader, Greeting, Progress, Signal};
use super::render_interval;
use super::sequence::SequenceTracker;

/// Reads `data` as whatever the far end of a test may say.
pub fn bench_message(data: &[u8]) {
    if let Ok(Greeting::Control { test, .. }) = serde_json::from_slice(data)
        && let Ok(()) = test.validate()
    {
        assert!(test.stream_rate_bps() != Some(0));
        assert!(!test.duration().is_zero());
    }
    let _ = serde_json::from_slice::<Answer>(data);
    let _ = serde_json::from_slice::<Signal>(data);
    match serde_json::from_slice(data) {
        Ok(Progress::Interval(interval)) => drop(render_interval(&interval)),
        Ok(Progress::Finished(side)) => drop(side.total()),
        Ok(Progress::Failed { .. }) | Err(_) => {}
    }
    datagrams(data);
}

/// Reads `data` as test datagrams without payload.
fn datagrams(data: &[u8]) {
    let mut tracker = SequenceTracker::new();
    let mut fresh = 0;
    for datagram in data.chunks(DATAGRAM_HEADER_LEN) {
        let Some(header) = DatagramHeader::parse(datagram) else { continue };
        assert_eq!(header.emit(), datagram);
        if header.sequence != DatagramHeader::HELLO {
            fresh += u64::from(tracker.observe(header.sequence));
        }
    }
    assert_eq!(tracker.received(), fresh);
}
