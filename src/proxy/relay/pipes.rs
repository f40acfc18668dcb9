//! Pipes that relays borrow while they have bytes on the way.

use crate::limits::{PROXY_BUFFER_LEN, PROXY_PIPE_LEN, PROXY_PIPE_RETRY_AFTER, PROXY_PIPES_MAX};
use crate::sys::pipe::Pipe;

/// The pipes of one worker, which are made as they are needed.
#[derive(Debug, Default)]
pub struct Pipes {
    free: Vec<Pipe>,
    lent: usize,
    /// How many more times nobody asks the kernel, which has none to give.
    refusals_left: u32,
}

impl Pipes {
    /// An empty pipe, unless there are too many or the kernel has none to give: descriptors have
    /// run out, or this user has so much memory in pipes that another would be a small one.
    pub fn lend(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.free.pop() {
            self.lent += 1;
            return Some(pipe);
        }
        if self.lent >= PROXY_PIPES_MAX {
            return None;
        }
        if self.refusals_left > 0 {
            self.refusals_left -= 1;
            return None;
        }
        match Pipe::new(PROXY_PIPE_LEN) {
            Ok(pipe) if pipe.capacity() >= PROXY_BUFFER_LEN => {
                self.lent += 1;
                Some(pipe)
            }
            refused => {
                log::debug!("proxy: no pipe to relay through: {refused:?}");
                self.refusals_left = PROXY_PIPE_RETRY_AFTER;
                None
            }
        }
    }

    /// Takes one back. One with bytes in it, which nobody wants any more, is closed.
    pub fn take_back(&mut self, pipe: Pipe) {
        self.lent = self.lent.saturating_sub(1);
        if pipe.held() == 0 {
            self.free.push(pipe);
        }
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
        let lent: Vec<Pipe> = std::iter::from_fn(|| pipes.lend()).collect();
        assert!((1..=PROXY_PIPES_MAX).contains(&lent.len()), "{}", lent.len());
        assert!(pipes.lend().is_none());
        let count = lent.len();
        lent.into_iter().for_each(|pipe| pipes.take_back(pipe));
        assert_eq!((pipes.free.len(), pipes.lent), (count, 0));
        assert!(pipes.lend().is_some());
        assert_eq!((pipes.free.len(), pipes.lent), (count - 1, 1));
    }

    #[test]
    fn a_pipe_with_somebody_s_bytes_in_it_is_lent_to_nobody_else() {
        let mut pipes = Pipes::default();
        let mut pipe = pipes.lend().unwrap();
        let (mut client, source) = std::os::unix::net::UnixStream::pair().unwrap();
        client.write_all(b"secret").unwrap();
        assert_eq!(pipe.fill(&source.as_fd(), 100).unwrap(), 6);
        pipes.take_back(pipe);
        assert_eq!((pipes.free.len(), pipes.lent), (0, 0));
    }
}
