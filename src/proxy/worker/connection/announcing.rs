//! Hears for whom another proxy has connected (the PROXY protocol).

use std::io;

use crate::proxy::counters::Refusal;
use crate::proxy::header::{self, Parsed};
use crate::proxy::stream::Moved;

use super::super::Context;
use super::{Connection, Phase, Step, Turn};

impl Connection {
    /// Goes on listening for whom the connection is made. The header precedes TLS.
    pub(super) fn announce(&mut self, cx: &mut Context) -> Step {
        let Phase::Announcing(announcing) = &self.phase else { return Step::Next };
        let until = announcing.until;
        let mut buffer = cx.buffers.lend();
        let heard = self.hear_header(&mut buffer);
        cx.buffers.take_back(buffer);
        let refusal = match heard {
            Ok(true) => match self.seat.pass_on(self.from.ip(), &self.rules, cx.now) {
                Ok(()) => {
                    self.phase = Phase::asking(until);
                    return Step::Next;
                }
                Err(refusal) => refusal,
            },
            Ok(false) => return Step::Turn(Turn::Wait),
            Err(error) => {
                log::debug!("proxy: {}: {error}", self.from);
                Refusal::Malformed
            }
        };
        self.turn_away(refusal, cx);
        Step::Next
    }

    /// Looks whether the header is whole, and if so takes it off the connection.
    fn hear_header(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let len = match self.client.peek(buffer)? {
            Moved::Bytes(len) => len,
            Moved::Blocked => return Ok(false),
            Moved::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let seen = buffer.get_mut(..len).unwrap_or_default();
        match header::parse(seen).map_err(io::Error::other)? {
            Parsed::NeedMore => self.client.await_more().map(|()| false),
            Parsed::Whole { used, ends } => {
                self.client.skip(seen.get_mut(..used).unwrap_or_default())?;
                if let Some(ends) = ends {
                    self.from = ends.source;
                }
                Ok(true)
            }
        }
    }
}
