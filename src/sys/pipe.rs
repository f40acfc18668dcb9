//! Bytes that pass from one socket to another inside the kernel (splice(2), pipe(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// A pipe through which bytes pass without being copied to this process.
///
/// It is filled only when it is empty. So when the kernel has nothing to fill it with
/// ([`io::ErrorKind::WouldBlock`]), that is for want of bytes in the source, never for want of room
/// in the pipe.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity: usize,
    held: usize,
}

impl Pipe {
    /// A pipe with room for `capacity` bytes, or for as many as the kernel lets this user have
    /// (`/proc/sys/fs/pipe-max-size`, `/proc/sys/fs/pipe-user-pages-soft`).
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` if no descriptor is left.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: there is room for the two descriptors that the call writes.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptors are new, and nobody else has them.
        let [reader, writer] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        let wanted = libc::c_int::try_from(capacity).unwrap_or(libc::c_int::MAX);
        // A refusal leaves it at the size that it has.
        // SAFETY: both calls take a live descriptor and integers only.
        let capacity = unsafe {
            libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, wanted);
            libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ)
        };
        let capacity = usize::try_from(capacity).map_err(|_| io::Error::last_os_error())?;
        Ok(Self { reader, writer, capacity, held: 0 })
    }

    /// Bytes that it has room for, at most: each piece of memory that a socket hands over takes a
    /// page's worth of it, however short it is.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that are in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Fills the pipe with up to `max` bytes from a non-blocking socket. Returns how many there
    /// were; 0 is the far end's orderly end.
    ///
    /// # Errors
    /// `WouldBlock` if the socket has nothing now; `InvalidInput` if the pipe is not empty or `max`
    /// is 0; what the connection has died of.
    pub fn fill(&mut self, source: &impl AsFd, max: usize) -> io::Result<usize> {
        if self.held > 0 || max == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let moved = splice(source, &self.writer, max)?;
        self.held = moved;
        Ok(moved)
    }

    /// Hands what is in the pipe to a non-blocking socket. Returns how many bytes it took.
    ///
    /// # Errors
    /// `WouldBlock` if the socket has no room now; what the connection has died of.
    pub fn drain(&mut self, sink: &impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.reader, sink, self.held)?;
        self.held -= moved.min(self.held);
        Ok(moved)
    }
}

/// One call of splice(2) that does not block.
fn splice(from: &impl AsFd, to: &impl AsFd, max: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: both descriptors are borrowed and live, and no offsets are given.
    let moved = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), max, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// A connection: the far end, and the near one, which does not block.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (far, near)
    }

    /// Tries until the kernel has had the time that it needs.
    fn await_moved(mut attempt: impl FnMut() -> io::Result<usize>) -> usize {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                moved => return moved.unwrap(),
            }
        }
    }

    #[test]
    fn bytes_pass_in_order_and_the_end_is_told() {
        let ((mut client, source), (mut origin, sink)) = (connection(), connection());
        let mut pipe = Pipe::new(256 * 1024).unwrap();
        assert!(pipe.capacity() >= 4096, "{}", pipe.capacity());
        let nothing = pipe.fill(&source, 100).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello, origin").unwrap();
        assert_eq!(await_moved(|| pipe.fill(&source, 5)), 5, "no more than is asked for");
        assert_eq!(pipe.held(), 5);
        assert_eq!(pipe.fill(&source, 5).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(await_moved(|| pipe.drain(&sink)), 5);
        assert_eq!(await_moved(|| pipe.fill(&source, 100)), 8);
        assert_eq!(await_moved(|| pipe.drain(&sink)), 8);
        let mut got = [0; 13];
        origin.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello, origin");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(await_moved(|| pipe.fill(&source, 100)), 0);
        assert_eq!(pipe.held(), 0);
    }

    #[test]
    fn a_sink_that_is_full_leaves_the_rest_in_the_pipe() {
        let ((mut client, source), (mut origin, sink)) = (connection(), connection());
        let sent: Vec<u8> = (0..8_000_000_u32).map(|number| (number >> 3) as u8).collect();
        let expected = sent.clone();
        let writer = std::thread::spawn(move || client.write_all(&sent));
        let mut pipe = Pipe::new(256 * 1024).unwrap();
        let mut moved = 0;
        // Nobody reads: at some time bytes stay in the pipe.
        loop {
            await_moved(|| pipe.fill(&source, usize::MAX >> 33));
            match pipe.drain(&sink) {
                Ok(len) => moved += len,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            if pipe.held() > 0 {
                break;
            }
        }
        assert!(moved < expected.len());
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            origin.read_to_end(&mut got).unwrap();
            got
        });
        loop {
            while pipe.held() > 0 {
                await_moved(|| pipe.drain(&sink));
            }
            if await_moved(|| pipe.fill(&source, usize::MAX >> 33)) == 0 {
                break;
            }
        }
        writer.join().unwrap().unwrap();
        drop(sink);
        assert!(reader.join().unwrap() == expected, "the bytes are those that were sent");
    }
}
