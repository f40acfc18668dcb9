//! Says the last words.

use crate::proxy::stream::Moved;

use super::{Connection, Phase, Step, Turn, write_out};

/// Reads of one turn of what nobody listens to any more.
const READS_PER_TURN: usize = 8;

impl Connection {
    /// Goes on saying the last words.
    pub(super) fn part(&mut self) -> Step {
        let Phase::Parting(parting) = &mut self.phase else { return Step::Next };
        if !parting.shut {
            match write_out(&mut self.client, &mut parting.output) {
                Ok(true) => {}
                Ok(false) => return Step::Turn(Turn::Wait),
                Err(_) => return Step::Turn(Turn::Over),
            }
            match self.client.shut() {
                Ok(Moved::End) => parting.shut = true,
                Ok(_) => return Step::Turn(Turn::Wait),
                Err(_) => return Step::Turn(Turn::Over),
            }
        }
        for _ in 0..READS_PER_TURN {
            match self.client.read(&mut [0; 4096]) {
                Ok(Moved::Bytes(_)) => {}
                Ok(Moved::Blocked) if self.client.is_readable() => {}
                Ok(Moved::Blocked) => return Step::Turn(Turn::Wait),
                Ok(Moved::End) | Err(_) => return Step::Turn(Turn::Over),
            }
        }
        Step::Turn(Turn::Again)
    }
}
