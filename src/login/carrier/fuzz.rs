//! What the fuzz targets call.

use super::frame::next_frame;

/// Cuts a stream into frames. Each ends behind where it begins, inside the stream, and its header
/// is what is written for it.
pub fn frames(stream: &[u8]) {
    let mut at = 0;
    loop {
        let before = at;
        let Ok(Some((frame, body))) = next_frame(stream, &mut at) else { return };
        assert!(body.end == at && at <= stream.len() && !body.is_empty());
        assert_eq!(stream[before..body.start], frame.emit());
        assert!(frame.datagrams() * frame.stride() >= body.len());
    }
}
