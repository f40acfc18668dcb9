//! Where an engine's randomness comes from.

use std::io;

use rand::rngs::{OsRng, StdRng};
use rand::{CryptoRng, RngCore, SeedableRng, TryRngCore};

use crate::daemon::DaemonError;

/// Secrets from the kernel, each time; other numbers from a generator.
///
/// The kernel erases what it has given ("fast key erasure", random(4)), so no image of this
/// process's memory can be run backwards to keys that are gone, and of two copies of a virtual
/// machine each gets keys of its own. That costs a handshake three system calls. Whoever draws
/// bytes at once wants a secret. Single numbers are session indices, tokens of probes, waits and
/// salts of cookie replies; of the last a flood may ask for a hundred thousand a second.
#[derive(Clone)]
pub(super) struct Randomness {
    numbers: StdRng,
}

impl Randomness {
    /// # Errors
    /// If the kernel gives no random bytes. Once it has given some it does not stop.
    pub(super) fn open() -> Result<Self, DaemonError> {
        let numbers = StdRng::try_from_os_rng().map_err(io::Error::other);
        Ok(Self { numbers: numbers.map_err(DaemonError::io("reading random bytes"))? })
    }
}

impl RngCore for Randomness {
    fn next_u32(&mut self) -> u32 {
        self.numbers.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.numbers.next_u64()
    }

    fn fill_bytes(&mut self, secret: &mut [u8]) {
        OsRng.unwrap_err().fill_bytes(secret);
    }
}

impl CryptoRng for Randomness {}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(source: &mut Randomness) -> [u8; 32] {
        let mut secret = [0; 32];
        source.fill_bytes(&mut secret);
        secret
    }

    /// Two processes that go on from one memory have nothing in common but their numbers.
    #[test]
    fn an_image_of_the_memory_tells_no_secret_of_before_or_after() {
        let mut source = Randomness::open().unwrap();
        let before = source.numbers.clone();
        let mut image = source.clone();
        assert_ne!(secret(&mut source), secret(&mut image));
        assert_ne!(secret(&mut source), secret(&mut source));
        assert_eq!(source.numbers, before, "secrets leave no trace in what is kept");
        assert_eq!(source.next_u64(), image.next_u64());
        assert_ne!(source.numbers, before);
    }

    #[test]
    fn numbers_are_those_of_no_other_process() {
        let [mut first, mut second] = [(); 2].map(|()| Randomness::open().unwrap());
        assert_ne!(first.next_u64(), second.next_u64());
    }
}
