//! Which CPUs this process may use, and pinning a worker to one of them.

use std::io;

use core_affinity::CoreId;

/// The CPUs the calling thread may run on, ascending: the intersection of the machine's CPUs, its
/// cpuset and any `taskset` (`sched_getaffinity(2)`).
///
/// # Errors
/// The kernel's answer; `EINVAL` on machines with more than 1024 possible CPUs.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    match core_affinity::get_core_ids() {
        Some(cores) => Ok(cores.into_iter().map(|core| core.id).collect()),
        None => Err(io::Error::last_os_error()),
    }
}

/// Pins the calling thread to one CPU (`sched_setaffinity(2)`).
///
/// # Errors
/// `InvalidInput` for a CPU number no mask can hold, `EINVAL` for a CPU that does not exist, is
/// offline or lies outside the cpuset.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    let mask_len = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    if cpu >= mask_len {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("CPU {cpu} is beyond the {mask_len} that an affinity mask can name"),
        ));
    }
    if core_affinity::set_for_current(CoreId { id: cpu }) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::{allowed_cpus, pin_current_thread};

    #[test]
    fn a_pinned_thread_may_run_on_that_cpu_alone() {
        for cpu in allowed_cpus().unwrap() {
            let seen = std::thread::spawn(move || {
                pin_current_thread(cpu).unwrap();
                // SAFETY: sched_getcpu takes no argument and only reads.
                (allowed_cpus().unwrap(), unsafe { libc::sched_getcpu() })
            });
            assert_eq!(seen.join().unwrap(), (vec![cpu], i32::try_from(cpu).unwrap()));
        }
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_an_error_and_not_a_panic() {
        let last = *allowed_cpus().unwrap().last().unwrap();
        assert!(pin_current_thread(1023.max(last + 1)).is_err());
        assert!(pin_current_thread(1024).is_err());
        assert!(pin_current_thread(usize::MAX).is_err());
    }
}
