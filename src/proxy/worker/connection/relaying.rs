//! Passes bytes.

use crate::proxy::records::Outcome;
use crate::proxy::relay::Turn as RelayTurn;

use super::super::Context;
use super::{Connection, Phase, Step, Turn};

impl Connection {
    /// Goes on passing bytes.
    pub(super) fn relay(&mut self, cx: &mut Context) -> Step {
        let Phase::Relaying(relaying) = &mut self.phase else { return Step::Next };
        let (up, down) = (relaying.relay.up.bytes(), relaying.relay.down.bytes());
        let turn =
            relaying.relay.turn(cx.now, &mut self.client, &mut relaying.origin, &mut cx.buffers);
        let (up, down) = (relaying.relay.up.bytes() - up, relaying.relay.down.bytes() - down);
        if up + down > 0 {
            relaying.until = cx.now + self.rules.idle_max;
            cx.counters.up_bytes.add(up);
            cx.counters.down_bytes.add(down);
            self.visitor.count(up, down);
            self.ledger.count(up, down);
        }
        Step::Turn(match turn {
            RelayTurn::Again => Turn::Again,
            RelayTurn::Wait => Turn::Wait,
            RelayTurn::Over => Turn::Over,
            RelayTurn::Broken(error) => {
                log::debug!("proxy: a relay is broken: {error}");
                cx.counters.broken.add(1);
                self.ledger.note(Outcome::Broken);
                self.reset();
                Turn::Over
            }
        })
    }
}
