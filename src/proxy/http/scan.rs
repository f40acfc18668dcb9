//! Where a head ends, found as its bytes arrive.

use std::ops::Range;

use crate::limits::{HTTP_HEAD_LEN_MAX, HTTP_START_LINE_LEN_MAX};

use super::error::HttpError;

/// Looks for the end of a head in a buffer that grows; each byte is looked at once.
///
/// One empty line in front of a request is passed over (RFC 9112 section 2.2).
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadScanner {
    /// Bytes that have been looked at.
    scanned: usize,
    /// Where the line begins in which `scanned` is.
    line: usize,
    /// Where the head begins: behind an empty line, if there is one.
    start: usize,
}

impl HeadScanner {
    /// Where the head is in `buffer`, which begins as it did in earlier calls and may have become
    /// longer; `None` if its end is yet to come. What stands in front of the head belongs to
    /// nothing. After a head the scanner is ready for the next one, in a buffer from which this one
    /// has been removed.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<Range<usize>>, HttpError> {
        while let Some(rest) = buffer.get(self.scanned..) {
            let Some(offset) = rest.iter().position(|&byte| byte == b'\n') else {
                self.scanned = buffer.len();
                break;
            };
            let feed = self.scanned + offset;
            let line = buffer.get(self.line..feed).unwrap_or_default();
            self.check_length(feed + 1)?;
            let Some(line) = line.strip_suffix(b"\r") else { return Err(HttpError::BareLf) };
            let line_start = self.line;
            self.scanned = feed + 1;
            self.line = feed + 1;
            if !line.is_empty() {
                continue;
            }
            if line_start > self.start {
                let head = self.start..feed + 1;
                *self = Self::default();
                return Ok(Some(head));
            }
            if self.start > 0 {
                return Err(HttpError::EmptyLines);
            }
            self.start = feed + 1;
        }
        self.check_length(self.scanned)?;
        Ok(None)
    }

    /// Refuses a start line or a head that reaches to `end` or beyond, if that is too far.
    fn check_length(&self, end: usize) -> Result<(), HttpError> {
        let len = end - self.start;
        if self.line == self.start && len > HTTP_START_LINE_LEN_MAX {
            return Err(HttpError::StartLineTooLong);
        }
        if len > HTTP_HEAD_LEN_MAX {
            return Err(HttpError::HeadTooLong);
        }
        Ok(())
    }
}
