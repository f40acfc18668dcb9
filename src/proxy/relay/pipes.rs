//! Pipes that relays borrow while they have bytes on the way.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::limits::{PROXY_BUFFER_LEN, PROXY_PIPE_LEN, PROXY_PIPE_RETRY_AFTER, PROXY_PIPES_MAX};
use crate::sys::pipe::Pipe;

/// The pipes of one worker, which are made as they are needed.
#[derive(Debug, Default)]
pub struct Pipes {
    free: Vec<Pipe>,
    /// Held by each that is lent.
    place: Arc<()>,
    /// How many more times nobody asks the kernel, which has none to give.
    refusals_left: u32,
}

/// A pipe that is lent. It may be dropped instead of being taken back, and is closed then.
#[derive(Debug)]
pub struct LentPipe {
    pipe: Pipe,
    _place: Arc<()>,
}

impl Deref for LentPipe {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        &self.pipe
    }
}

impl DerefMut for LentPipe {
    fn deref_mut(&mut self) -> &mut Pipe {
        &mut self.pipe
    }
}

impl Pipes {
    /// An empty pipe, unless there are too many or the kernel has none to give: descriptors have
    /// run out, or this user has so much memory in pipes that another would be a small one.
    pub fn lend(&mut self) -> Option<LentPipe> {
        let lend = |pipe, place: &Arc<()>| LentPipe { pipe, _place: Arc::clone(place) };
        if let Some(pipe) = self.free.pop() {
            return Some(lend(pipe, &self.place));
        }
        if self.lent() >= PROXY_PIPES_MAX {
            return None;
        }
        if self.refusals_left > 0 {
            self.refusals_left -= 1;
            return None;
        }
        match Pipe::new(PROXY_PIPE_LEN) {
            Ok(pipe) if pipe.capacity() >= PROXY_BUFFER_LEN => Some(lend(pipe, &self.place)),
            refused => {
                log::debug!("proxy: no pipe to relay through: {refused:?}");
                self.refusals_left = PROXY_PIPE_RETRY_AFTER;
                None
            }
        }
    }

    /// Takes one back. One with bytes in it, which nobody wants any more, is closed.
    pub fn take_back(&mut self, lent: LentPipe) {
        if lent.held() == 0 {
            self.free.push(lent.pipe);
        }
    }

    fn lent(&self) -> usize {
        Arc::strong_count(&self.place) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn pipes_are_bounded_and_lent_again() {
        let mut pipes = Pipes::default();
        let lent: Vec<LentPipe> = std::iter::from_fn(|| pipes.lend()).collect();
        assert!((1..=PROXY_PIPES_MAX).contains(&lent.len()), "{}", lent.len());
        assert!(pipes.lend().is_none());
        let count = lent.len();
        lent.into_iter().for_each(|pipe| pipes.take_back(pipe));
        assert_eq!((pipes.free.len(), pipes.lent()), (count, 0));
        let one = pipes.lend().unwrap();
        assert_eq!((pipes.free.len(), pipes.lent()), (count - 1, 1));
        drop(one);
        assert_eq!((pipes.free.len(), pipes.lent()), (count - 1, 0), "a relay may just be dropped");
    }

    #[test]
    fn a_pipe_with_somebody_s_bytes_in_it_is_lent_to_nobody_else() {
        let mut pipes = Pipes::default();
        let mut pipe = pipes.lend().unwrap();
        let (mut client, source) = std::os::unix::net::UnixStream::pair().unwrap();
        client.write_all(b"secret").unwrap();
        assert_eq!(pipe.fill(&source.as_fd(), 100).unwrap(), 6);
        pipes.take_back(pipe);
        assert_eq!((pipes.free.len(), pipes.lent()), (0, 0));
    }
}
