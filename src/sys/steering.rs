//! The steering program: which member of a reuseport group gets a datagram.
//!
//! A classic BPF program, attached with `SO_ATTACH_REUSEPORT_CBPF` (socket(7)), sees every
//! datagram from its first UDP payload byte on and answers with the index of the member, in bind
//! order. Data messages go to the worker that owns their lane, everything else, malformed
//! datagrams included, to the control thread: no flood of handshakes or junk ever enters a worker.
//!
//! For a GRO aggregate the program sees the first datagram only. That is enough, because one
//! sender's datagrams of different lanes leave from different ports.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::limits::WORKERS_MAX;

/// The first byte of a data message (docs/protocol.md, "Messages").
const MESSAGE_TYPE_DATA: u32 = 4;

/// Attaches the steering program to the group that `member` belongs to: data messages go to
/// member `lane % workers`, everything else to member `workers`, the control thread, which must
/// have been bound last.
///
/// # Errors
/// `InvalidInput` unless `1 <= workers <= WORKERS_MAX`; `EINVAL` if `member` is in no group;
/// `ENOMEM` if the program exceeds `net.core.optmem_max`.
pub fn attach_lane_steering(member: &impl AsFd, workers: u16) -> io::Result<()> {
    if workers == 0 || usize::from(workers) > WORKERS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{workers} workers cannot be steered to: 1 to {WORKERS_MAX} can"),
        ));
    }
    let mut filter = lane_steering_program(u32::from(workers));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and the filter it points to live across the call, which copies them, and
    // the length given is that of the structure.
    let result = unsafe {
        libc::setsockopt(
            member.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The program. A load beyond the datagram ends it with the answer 0, worker 0, hence the length
/// is judged first.
fn lane_steering_program(workers: u32) -> [libc::sock_filter; 8] {
    use libc::{BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_LEN};
    use libc::{BPF_MOD, BPF_RET, BPF_W};
    const TO_CONTROL_FROM_1: u8 = 5;
    const TO_CONTROL_FROM_3: u8 = 3;
    [
        statement(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JMP | BPF_JGE | BPF_K, 2, 0, TO_CONTROL_FROM_1),
        statement(BPF_LD | BPF_B | BPF_ABS, 0),
        jump(BPF_JMP | BPF_JEQ | BPF_K, MESSAGE_TYPE_DATA, 0, TO_CONTROL_FROM_3),
        statement(BPF_LD | BPF_B | BPF_ABS, 1),
        statement(BPF_ALU | BPF_MOD | BPF_K, workers),
        statement(BPF_RET | BPF_A, 0),
        statement(BPF_RET | BPF_K, workers),
    ]
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

/// One instruction; `jt` and `jf` count the instructions to skip.
fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests;
