//! The operating system: the only room with `unsafe`.
//!
//! Everything here wraps a Linux interface that the standard library lacks and hands out safe
//! types: TUN queues with virtio headers, batches of UDP datagrams with segmentation offload, the
//! steering program of a reuseport group, network namespaces, CPU affinity, the clocks. No policy
//! and no protocol: those rooms decide, this one does what it is told and says what the kernel
//! answered, with the likely cause and the command that mends it where an admin will read it.

#![allow(unsafe_code)]

pub mod affinity;
pub mod alarm;
#[doc(hidden)]
pub mod allocations;
pub mod arena;
pub mod capture;
pub mod clock;
pub mod ethtool;
pub mod file_lock;
pub mod inotify;
mod link;
pub mod names;
pub mod netns;
pub mod peer;
pub mod pipe;
pub mod private_file;
pub mod privileges;
pub mod process;
pub mod signal;
pub mod steering;
pub mod tcp;
pub mod terminal;
pub mod tun;
pub mod udp;

#[cfg(test)]
pub(crate) mod testing;
