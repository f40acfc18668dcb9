//! Whether a worker that has run out of work looks again for a while before it sleeps.
//!
//! Waking a thread costs more than a packet, most of all where it sleeps on an idle CPU. The answer
//! to what was just sent often comes within microseconds, so a worker looks for it a little longer
//! before it sleeps. That is only worth while as long as it finds something now and then and takes
//! the CPU from nobody: [`Spinner`] stops where either is not so, and tries again later. It has no
//! clock of its own.

use std::time::Duration;

use crate::limits::{SPIN_MISSES_MAX, SPIN_PAUSE_SLEEPS, SPIN_TURN_AWAY_MAX};

/// How one round of looking went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// There is something to do.
    Found,
    /// Nothing, and the CPU was given to others for this long meanwhile.
    Nothing(Duration),
}

/// Decides how long to look before each sleep.
#[derive(Debug)]
pub(super) struct Spinner {
    longest: Duration,
    /// Spins in a row that found nothing.
    misses: u32,
    /// Sleeps to come without spinning.
    pause: u32,
}

impl Spinner {
    /// One that looks for at most `longest`; zero means never.
    pub(super) const fn new(longest: Duration) -> Self {
        Self { longest, misses: 0, pause: 0 }
    }

    /// How long to look before the sleep that is due.
    pub(super) fn before_sleep(&mut self) -> Option<Duration> {
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        (!self.longest.is_zero()).then_some(self.longest)
    }

    /// Takes note of a look, `elapsed` after the spin began. Returns whether to look again.
    pub(super) fn goes_on(&mut self, look: Look, elapsed: Duration) -> bool {
        match look {
            Look::Found => {
                self.misses = 0;
                false
            }
            // Others want this CPU: asleep, a worker is woken ahead of them when a packet comes;
            // merely willing to let them run, it would wait for them.
            Look::Nothing(away) if away > SPIN_TURN_AWAY_MAX => {
                self.pause = SPIN_PAUSE_SLEEPS;
                false
            }
            Look::Nothing(_) if elapsed < self.longest => true,
            Look::Nothing(_) => {
                self.misses += 1;
                if self.misses >= SPIN_MISSES_MAX {
                    self.pause = SPIN_PAUSE_SLEEPS;
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(50);

    /// Spins once and finds nothing. Returns whether it spun at all.
    fn miss(spinner: &mut Spinner) -> bool {
        let spins = spinner.before_sleep().is_some();
        if spins {
            assert!(spinner.goes_on(Look::Nothing(Duration::ZERO), LONGEST / 2));
            assert!(!spinner.goes_on(Look::Nothing(Duration::ZERO), LONGEST));
        }
        spins
    }

    #[test]
    fn without_a_length_it_never_spins() {
        let mut spinner = Spinner::new(Duration::ZERO);
        assert!((0..100).all(|_| spinner.before_sleep().is_none()));
    }

    #[test]
    fn spins_that_find_nothing_become_rare_and_a_find_makes_them_usual_again() {
        let mut spinner = Spinner::new(LONGEST);
        let spins = (0..SPIN_MISSES_MAX).filter(|_| miss(&mut spinner)).count();
        assert_eq!(spins, SPIN_MISSES_MAX as usize);
        let period = SPIN_PAUSE_SLEEPS as usize + 1;
        let spins = (0..10 * period).filter(|_| miss(&mut spinner)).count();
        assert_eq!(spins, 10);
        while spinner.before_sleep().is_none() {}
        assert!(!spinner.goes_on(Look::Found, LONGEST / 10));
        assert!((1..SPIN_MISSES_MAX).all(|_| miss(&mut spinner)));
    }

    #[test]
    fn every_second_find_is_enough_to_go_on() {
        let mut spinner = Spinner::new(LONGEST);
        for _ in 0..1000 {
            assert!(miss(&mut spinner) && spinner.before_sleep().is_some());
            assert!(!spinner.goes_on(Look::Found, LONGEST / 2));
        }
    }

    #[test]
    fn others_who_want_the_cpu_get_it() {
        let mut spinner = Spinner::new(LONGEST);
        assert!(spinner.before_sleep().is_some());
        assert!(spinner.goes_on(Look::Nothing(SPIN_TURN_AWAY_MAX), LONGEST / 2), "a short errand");
        let away = SPIN_TURN_AWAY_MAX + Duration::from_nanos(1);
        assert!(!spinner.goes_on(Look::Nothing(away), LONGEST / 2));
        assert!((0..SPIN_PAUSE_SLEEPS).all(|_| spinner.before_sleep().is_none()));
        assert_eq!(spinner.before_sleep(), Some(LONGEST));
    }
}
