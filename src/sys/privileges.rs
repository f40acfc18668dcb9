//! The one privilege switch that has no safe wrapper elsewhere.

use std::io;

/// Makes sure that the calling thread, and whatever it starts from then on, never gains privileges
/// by executing a program: set-user-id bits and file capabilities are ignored
/// (`PR_SET_NO_NEW_PRIVS`, prctl(2)). Cannot be undone.
///
/// # Errors
/// None since Linux 3.5; the kernel's answer is passed on.
pub fn set_no_new_privs() -> io::Result<()> {
    const ON: libc::c_ulong = 1;
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: prctl with PR_SET_NO_NEW_PRIVS takes integers only.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, ON, UNUSED, UNUSED, UNUSED) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
