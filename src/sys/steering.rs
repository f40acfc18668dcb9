//! The steering program: which member of a reuseport group gets a datagram.
//!
//! A classic BPF program, attached with `SO_ATTACH_REUSEPORT_CBPF` (socket(7)), sees every
//! datagram from its first UDP payload byte on and answers with the index of the member, in bind
//! order. Data messages go to the worker that owns their lane, everything else, malformed
//! datagrams included, to the control thread: no flood of handshakes or junk ever enters a worker.
//!
//! The control thread has [`CONTROL_MEMBERS`] sockets of each group, so that what floods one of
//! them takes no room from the others: initiations that claim to prove their address by a cookie,
//! initiations that do not, and the rest. A claim costs a forger nothing, but it must be made.
//!
//! For a GRO aggregate the program sees the first datagram and the length of the whole. That is
//! enough, because one sender's datagrams of different lanes leave from different ports, and an
//! initiation is never shorter than it must be for being in company.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::limits::{MAC_LEN, WORKERS_MAX};
use crate::wire::{INITIATION_LEN, MessageType};

/// The last members of a group are the control thread's: the first of them gets initiations with a
/// `mac2`, the second those without, the third everything that is neither these nor data.
pub const CONTROL_MEMBERS: usize = 3;

const TYPE_DATA: u32 = MessageType::Data as u32;
const TYPE_INITIATION: u32 = MessageType::Initiation as u32;
/// Where `mac2` begins. Its first four bytes tell whether there is one: a true one begins with four
/// zeros once in 2^32 times, and then waits with those that have none.
const MAC2_OFFSET: u32 = (INITIATION_LEN - MAC_LEN) as u32;

/// Attaches the steering program to the group that `member` belongs to: data messages go to
/// member `lane % workers`, everything else to the members from `workers` on, which must have been
/// bound last, see [`CONTROL_MEMBERS`].
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
/// is judged before each.
fn lane_steering_program(workers: u32) -> [libc::sock_filter; 15] {
    use libc::{BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_LEN};
    use libc::{BPF_MOD, BPF_RET, BPF_W};
    // Jumps forward, by where they stand and where they lead.
    const INITIATION: u8 = 7;
    const WITHOUT_MAC2: u8 = 13;
    const REST: u8 = 14;
    const fn from(at: u8, to: u8) -> u8 {
        to - at - 1
    }
    [
        statement(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JMP | BPF_JGE | BPF_K, 2, 0, from(1, REST)),
        statement(BPF_LD | BPF_B | BPF_ABS, 0),
        jump(BPF_JMP | BPF_JEQ | BPF_K, TYPE_DATA, 0, from(3, INITIATION)),
        statement(BPF_LD | BPF_B | BPF_ABS, 1),
        statement(BPF_ALU | BPF_MOD | BPF_K, workers),
        statement(BPF_RET | BPF_A, 0),
        jump(BPF_JMP | BPF_JEQ | BPF_K, TYPE_INITIATION, 0, from(7, REST)),
        statement(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JMP | BPF_JGE | BPF_K, INITIATION_LEN as u32, 0, from(9, REST)),
        statement(BPF_LD | BPF_W | BPF_ABS, MAC2_OFFSET),
        jump(BPF_JMP | BPF_JEQ | BPF_K, 0, from(11, WITHOUT_MAC2), 0),
        statement(BPF_RET | BPF_K, workers),
        statement(BPF_RET | BPF_K, workers + 1),
        statement(BPF_RET | BPF_K, workers + 2),
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
