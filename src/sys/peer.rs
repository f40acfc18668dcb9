//! Who is at the other end of a Unix socket (`SO_PEERCRED`, unix(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The user that has connected, as the kernel noted it then.
///
/// # Errors
/// The kernel refuses, which it does for no connected stream.
pub fn user_of(stream: &UnixStream) -> io::Result<u32> {
    let mut credentials = MaybeUninit::<libc::ucred>::uninit();
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointers lead to room for one ucred and to its length, and the descriptor is open
    // as long as `stream` is.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size_of::<libc::ucred>() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the call has succeeded and says that it has written all of it.
    Ok(unsafe { credentials.assume_init() }.uid)
}

/// The user that this process acts as.
pub fn own_user() -> u32 {
    // SAFETY: it reads one number of the process and cannot fail (geteuid(2)).
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(user_of(&one).unwrap(), own_user());
    }
}
