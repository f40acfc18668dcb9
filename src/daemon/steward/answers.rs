//! Answers of people to questions about secrets. Whoever is asked may take their time, but the
//! program ends when it is to.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use crossbeam_channel::{Receiver, TryRecvError};

use crate::accounts::secret::Secret;
use crate::limits::{ANSWER_LEN_MAX, ANSWER_LOOK_EVERY};
use crate::sys::terminal::{Hidden, wait_readable};

/// Where answers to questions about secrets come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// From the terminal, if there is one.
    #[default]
    Terminal,
    /// From standard input, a line each.
    Stdin,
}

impl Answers {
    /// Whether somebody can be asked.
    pub(in crate::daemon) fn are_there(self) -> bool {
        match self {
            Self::Terminal => io::stdin().is_terminal() && io::stderr().is_terminal(),
            Self::Stdin => true,
        }
    }

    /// Whether whoever answers can be asked again.
    pub(super) fn are_typed(self) -> bool {
        self == Self::Terminal && self.are_there()
    }

    /// Asks for a secret. Gives up as soon as the other end of `stop` is gone.
    pub(in crate::daemon) fn ask_secret(
        self,
        what: &str,
        stop: &Receiver<()>,
    ) -> io::Result<Secret> {
        let stdin = io::stdin();
        let hidden = match self {
            Self::Terminal => Some(Hidden::begin(&stdin)?),
            Self::Stdin => None,
        };
        let answer = self.ask(what, stop);
        if hidden.is_some() {
            // Nor was the end of the line shown.
            writeln!(io::stderr())?;
        }
        answer.map(Secret::new)
    }

    /// The same for what everybody may see.
    pub(super) fn ask(self, what: &str, stop: &Receiver<()>) -> io::Result<String> {
        if self == Self::Terminal {
            write!(io::stderr(), "{what}: ")?;
        }
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        read_line(input, stop)
    }
}

/// Reads a line and nothing behind it, however slowly it comes.
fn read_line(mut input: File, stop: &Receiver<()>) -> io::Result<String> {
    // There is room from the start: a secret that moves leaves a copy behind.
    let mut line = Vec::with_capacity(ANSWER_LEN_MAX);
    loop {
        if stop.try_recv() == Err(TryRecvError::Disconnected) {
            return Err(io::Error::other("the program is to end"));
        }
        if !wait_readable(input.as_fd(), ANSWER_LOOK_EVERY)? {
            continue;
        }
        let mut byte = [0];
        match input.read(&mut byte)? {
            0 if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            1 if byte != *b"\n" && line.len() < ANSWER_LEN_MAX => line.push(byte[0]),
            1 if byte != *b"\n" => return Err(io::Error::other("the line is too long")),
            _ => break,
        }
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use crossbeam_channel::bounded;

    use super::*;

    fn pair() -> (File, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (File::from(OwnedFd::from(near)), far)
    }

    #[test]
    fn lines_come_one_by_one() {
        let ((near, mut far), (_going, stop)) = (pair(), bounded(0));
        far.write_all(b"first\r\n\nlast").unwrap();
        drop(far);
        for expected in ["first", "", "last"] {
            assert_eq!(read_line(near.try_clone().unwrap(), &stop).unwrap(), expected);
        }
        assert!(read_line(near, &stop).is_err(), "there is no more");
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let ((near, mut far), (_going, stop)) = (pair(), bounded(0));
        far.write_all(&vec![b'x'; ANSWER_LEN_MAX + 1]).unwrap();
        assert!(read_line(near, &stop).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn nobody_is_waited_for_when_the_program_is_to_end() {
        let ((near, mut far), (going, stop)) = (pair(), bounded(0));
        far.write_all(b"half a li").unwrap();
        let asked = thread::spawn(move || read_line(near, &stop));
        drop(going);
        assert!(asked.join().unwrap().unwrap_err().to_string().contains("is to end"));
    }
}
