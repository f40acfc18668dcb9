//! How busy this server is.

use std::time::{Duration, Instant};

use crate::limits::LOAD_LOOK_EVERY;
use crate::sys::{affinity, process};

/// The share of the CPUs that this process uses.
#[derive(Debug, Default)]
pub(super) struct Load {
    last: Option<Look>,
    permille: u16,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    used: Duration,
}

impl Load {
    /// In thousandths of all CPUs that this process may use, of the latest while.
    pub(super) fn permille(&mut self, now: Instant) -> u16 {
        if self.last.is_none_or(|last| now >= last.at + LOAD_LOOK_EVERY)
            && let Ok(used) = process::cpu_time(std::process::id())
        {
            let cpus = affinity::allowed_cpus().map_or(1, |cpus| cpus.len().max(1));
            self.look(Look { at: now, used }, cpus);
        }
        self.permille
    }

    fn look(&mut self, look: Look, cpus: usize) {
        if let Some(last) = self.last.replace(look) {
            let available = (look.at - last.at).as_secs_f64() * cpus as f64;
            let used = look.used.saturating_sub(last.used).as_secs_f64();
            self.permille = (used / available.max(f64::MIN_POSITIVE) * 1000.0).min(1000.0) as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    #[test]
    fn load_is_the_share_of_all_cpus_since_the_last_look() {
        let (start, second) = (clock::now(), Duration::from_secs(1));
        let mut load = Load::default();
        for (at, used_ms, permille) in [(0, 500, 0), (1, 1500, 500), (2, 1500, 0), (3, 9000, 1000)]
        {
            let used = Duration::from_millis(used_ms);
            load.look(Look { at: start + second * at, used }, 2);
            assert_eq!(load.permille, permille, "after {at} s");
        }
    }

    #[test]
    fn this_process_has_a_load() {
        assert!(Load::default().permille(clock::now()) <= 1000);
    }
}
