//! Asking a child process to end.

use std::io;
use std::process::Child;

/// Sends `SIGTERM` to `child`; nothing if it has ended already.
///
/// # Errors
/// The kernel's answer.
pub fn terminate(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: kill takes integers only, and the number is still the child's: it has not been
    // waited for.
    if unsafe { libc::kill(pid, libc::SIGTERM) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn a_child_ends_by_sigterm_and_one_that_has_ended_is_left_alone() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        super::terminate(&mut child).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        super::terminate(&mut child).unwrap();
    }
}
