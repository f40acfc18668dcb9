//! What processes and threads have used, CPU time and memory, how much they may, and what starting
//! another program needs.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::time::Duration;

/// CPU time, user and system, that a process has used in all its threads so far. Nanosecond
/// resolution: this is the process's CPU clock, not the tick counters of `/proc/PID/stat`.
///
/// # Errors
/// `ESRCH` for a process that does not exist or has been waited for.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a live clockid_t that the call fills in.
    let errno = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    read_clock(clock)
}

/// CPU time, user and system, that the calling thread has used so far.
///
/// # Errors
/// None on Linux; the kernel's answer is passed on.
pub fn thread_cpu_time() -> io::Result<Duration> {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Memory of a process that is resident now (`VmRSS`), in bytes.
///
/// # Errors
/// `NotFound` for a process that does not exist, `InvalidData` for one that has no memory left (a
/// zombie).
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most memory of a process that was ever resident (`VmHWM`), in bytes.
///
/// # Errors
/// As [`resident_bytes`].
pub fn resident_bytes_peak(pid: u32) -> io::Result<u64> {
    status_bytes(pid, "VmHWM:")
}

/// Raises the number of files that this process may have open to the most that it may set itself
/// (`RLIMIT_NOFILE`), and returns it. What is inherited, often 1024, is meant for programs that use
/// select(2), which this one does not.
///
/// # Errors
/// The kernel's answer.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live rlimit that the call fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a live rlimit that the call reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live timespec that the call fills in.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanoseconds = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanoseconds))
}

/// A `kB` line of `/proc/PID/status`.
fn status_bytes(pid: u32, key: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|value| value.trim().strip_suffix("kB"))
        .and_then(|kibibytes| kibibytes.trim().parse::<u64>().ok())
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {key} in status")))
}

/// Lets the calling thread stand back behind others that want its CPU: the scheduler gives it the
/// weight of this nice value (`setpriority(2)`, sched(7)). No right is needed for that.
///
/// # Errors
/// The kernel's answer; `EACCES` where the thread has stood back further before.
pub fn stand_back(nice: i32) -> io::Result<()> {
    // 0 is the calling thread: Linux keeps nice values by thread, not by process.
    // SAFETY: setpriority takes integers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A file without a name that lives in memory (`memfd_create(2)`) and is closed in programs that
/// are started, unless it is handed to them.
///
/// # Errors
/// The kernel's answer.
pub fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a C string, and the flags are the kernel's.
    let fd = unsafe { libc::memfd_create(c"corelane".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Whether this program has rights that whoever started it has not (`AT_SECURE`, getauxval(3)):
/// then that one's environment is not to be trusted.
pub fn has_more_rights_than_its_starter() -> bool {
    // SAFETY: getauxval takes an integer and reads what the kernel gave this process.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

#[cfg(test)]
mod tests {
    use super::{cpu_time, resident_bytes, resident_bytes_peak, thread_cpu_time};
    use std::time::Duration;

    #[test]
    fn as_many_files_may_be_open_as_the_hard_limit_says() {
        let most = super::raise_open_files_limit().unwrap();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let most = most.to_string();
        assert_eq!(line.split_whitespace().filter(|word| **word == most).count(), 2, "{line}");
    }

    #[test]
    fn a_thread_stands_back_and_its_process_does_not() {
        let nice_of = |stat: &str| {
            let stat = std::fs::read_to_string(stat).unwrap();
            let (_, fields) = stat.rsplit_once(')').unwrap();
            // The 19th field (proc_pid_stat(5)); the two before `)` are gone.
            fields.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
        };
        let own = nice_of("/proc/thread-self/stat");
        let further = (own + 3).min(19);
        let seen = std::thread::spawn(move || {
            super::stand_back(further).unwrap();
            nice_of("/proc/thread-self/stat")
        });
        assert_eq!((seen.join().unwrap(), nice_of("/proc/thread-self/stat")), (further, own));
    }

    #[test]
    fn work_shows_in_the_thread_and_in_the_process() {
        // The process's clock is read first and last, so that it sees all that the thread's does.
        let process = cpu_time(std::process::id()).unwrap();
        let thread = thread_cpu_time().unwrap();
        let mut sum = 0_u64;
        while thread_cpu_time().unwrap() < thread + Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time(std::process::id()).unwrap() >= process + Duration::from_millis(5));
    }

    #[test]
    fn touched_memory_is_resident() {
        const LEN: usize = 8 << 20;
        let memory = vec![1_u8; LEN];
        assert!(resident_bytes(std::process::id()).unwrap() >= LEN as u64);
        assert!(resident_bytes_peak(std::process::id()).unwrap() >= LEN as u64);
        assert_eq!(std::hint::black_box(memory).len(), LEN);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(cpu_time(child.id()).is_err());
        assert!(resident_bytes(child.id()).is_err());
    }
}
