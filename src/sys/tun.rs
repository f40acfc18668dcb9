//! TUN devices: one queue per worker, every packet behind a virtio header, offloads probed.
//!
//! The device is made by `tun-rs`; from then on the queues are plain file descriptors that belong
//! to us. This module neither brings the link up nor gives it addresses. Kernel side:
//! `drivers/net/tun.c`, Documentation/networking/tuntap.rst.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use thiserror::Error;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::link::{self, Occupant};
use crate::limits::{VIRTIO_HEADER_LEN, WORKERS_MAX};

/// The offloads a caller wants. TCP and UDP segmentation both need `checksum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunOffloadWish {
    /// Checksums half done (`TUN_F_CSUM`).
    pub checksum: bool,
    /// TCP super-packets (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tcp: bool,
    /// UDP super-packets (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub udp: bool,
}

impl TunOffloadWish {
    /// Everything.
    pub const ALL: Self = Self { checksum: true, tcp: true, udp: true };
    /// Whole packets with finished checksums; the virtio header is there all the same.
    pub const NONE: Self = Self { checksum: false, tcp: false, udp: false };
}

/// The offloads in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// Checksums may be half done.
    pub checksum: bool,
    /// TCP super-packets come and are taken.
    pub tcp: bool,
    /// UDP super-packets come and are taken.
    pub udp: bool,
}

/// A TUN device whose queues this process holds. It vanishes with its last queue, unless it was
/// made persistent beforehand.
#[derive(Debug)]
pub struct TunDevice {
    /// The interface name, as the kernel chose it where the wish had `%d`.
    pub name: String,
    /// The queues, in the order of their indices.
    pub queues: Vec<TunQueue>,
    /// What the kernel granted of the wish.
    pub offloads: TunOffloads,
}

/// One queue of a TUN device, non-blocking and closed on exec.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    /// A queue that is detached, to write by; see [`TunDevice::fix_flows`].
    writer: Option<File>,
}

/// Why a TUN device could not be opened.
#[derive(Debug, Error)]
pub enum TunError {
    /// The name cannot be an interface's.
    #[error(
        "`{name}` is no interface name: give 1 to 15 bytes without `/`, `:` or blanks; \
         `%d` once lets the kernel number it"
    )]
    NameInvalid {
        /// The name that was asked for.
        name: String,
    },
    /// More queues than a device has.
    #[error("a TUN device cannot have {queues} queues: ask for 1 to {WORKERS_MAX} workers")]
    QueuesInvalid {
        /// The number of queues that was asked for.
        queues: usize,
    },
    /// `/dev/net/tun` is missing or has no driver.
    #[error(
        "/dev/net/tun is not there ({source}): load the driver with `modprobe tun`; in a container \
         pass the device in with `--device /dev/net/tun`"
    )]
    NodeMissing {
        /// The kernel's answer.
        source: io::Error,
    },
    /// `/dev/net/tun` may not be opened by this user.
    #[error(
        "/dev/net/tun may not be opened by this user ({source}): \
         `chmod 666 /dev/net/tun`, as distributions ship it, or run as root"
    )]
    NodeForbidden {
        /// The kernel's answer.
        source: io::Error,
    },
    /// `CAP_NET_ADMIN` is missing.
    #[error(
        "making the TUN device `{name}` needs CAP_NET_ADMIN: run as root, \
         `setcap cap_net_admin+ep` the program, or have root make the device with \
         `ip tuntap add dev {name} mode tun multi_queue user $USER`"
    )]
    NotPermitted {
        /// The device that was asked for.
        name: String,
    },
    /// Another process has the device open.
    #[error(
        "the TUN device `{name}` is in use by another process: choose another name with --tun, \
         or stop that process (`grep -l 'iff:.*{name}$' /proc/*/fdinfo/* 2>/dev/null` finds it)"
    )]
    NameInUse {
        /// The device that was asked for.
        name: String,
    },
    /// The name belongs to an interface that cannot be adopted.
    #[error(
        "the interface `{name}` exists and is not a multi-queue TUN device: choose another name \
         with --tun, or remove it with `ip link delete {name}`"
    )]
    NotAdoptable {
        /// The device that was asked for.
        name: String,
    },
    /// Anything else the kernel refused.
    #[error("{operation} failed for the TUN device `{name}`: {source}")]
    Refused {
        /// The device that was asked for.
        name: String,
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl TunDevice {
    /// Makes the device `name` with `queues` queues, or adopts a persistent multi-queue device of
    /// that name that nobody has open. An empty name means `tun%d`.
    ///
    /// `IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE`: every packet follows a virtio header of
    /// [`VIRTIO_HEADER_LEN`] bytes, also where no offload is in force. Of the wish, whatever the
    /// kernel refuses is left out, UDP first.
    ///
    /// # Errors
    /// See [`TunError`]; the device is not left behind.
    pub fn open(name: &str, queues: usize, wish: TunOffloadWish) -> Result<Self, TunError> {
        let wished_name = if name.is_empty() { "tun%d" } else { name };
        check_name(wished_name)?;
        if queues == 0 || queues > WORKERS_MAX {
            return Err(TunError::QueuesInvalid { queues });
        }
        check_node()?;
        check_occupant(wished_name)?;

        let devices = attach_queues(wished_name, queues)?;
        let name = devices[0].name().map_err(refused(wished_name, "reading the name"))?;
        let queues = devices
            .into_iter()
            .map(TunQueue::adopt)
            .collect::<io::Result<Vec<_>>>()
            .map_err(refused(&name, "setting a queue up"))?;
        let first = &queues[0];
        // Both are the device's, not the queue's, and outlive earlier users of a persistent one.
        first.set_virtio_header_len().map_err(refused(&name, "TUNSETVNETHDRSZ"))?;
        let offloads = first.set_offloads_of(wish).map_err(refused(&name, "TUNSETOFFLOAD"))?;
        Ok(Self { name, queues, offloads })
    }

    /// Has every flow stay on the queue that its hash chooses, whichever queue its packets are
    /// written to. Without this, the kernel sends a flow to the queue that has written it last.
    ///
    /// The kernel takes packets from a detached queue as from any other, but does not take note
    /// of it (`tun_get_user`, drivers/net/tun.c). So each queue gets a second descriptor, which is
    /// detached at once, to write by. To be called before the link is up: what the kernel sends
    /// between the two steps may be lost.
    ///
    /// # Errors
    /// See [`TunError`]; the device may then be given up.
    pub fn fix_flows(&mut self) -> Result<(), TunError> {
        if self.queues.len() == 1 {
            return Ok(());
        }
        for queue in &mut self.queues {
            let writer = attach_queue(&self.name).map_err(refused(&self.name, "TUNSETIFF"))?;
            set_attached(&writer, false).map_err(refused(&self.name, "TUNSETQUEUE"))?;
            queue.writer = Some(writer);
        }
        Ok(())
    }
}

impl TunQueue {
    /// Reads one packet behind its virtio header; the buffer should hold [`VIRTIO_HEADER_LEN`] +
    /// 65535 bytes, because the kernel cuts a longer packet off. Returns the length of both.
    ///
    /// # Errors
    /// `WouldBlock` if no packet waits; `EBADFD` if the queue is detached or the device is gone;
    /// `EIO` while the link is down.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet behind its virtio header: all of it or nothing.
    ///
    /// # Errors
    /// `EINVAL` for a header or packet the kernel does not take, `EIO` while the link is down,
    /// `WouldBlock` or `ENOBUFS` if there is no room, `EBADFD` if the device is gone.
    #[inline]
    pub fn write(&self, packet: &[u8]) -> io::Result<usize> {
        self.writer().write(packet)
    }

    /// Writes one packet that lies in pieces, the first of which begins with the virtio header:
    /// all of it or nothing. At most 1024 pieces.
    ///
    /// # Errors
    /// As [`TunQueue::write`].
    #[inline]
    pub fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writer().write_vectored(pieces)
    }

    #[inline]
    fn writer(&self) -> &File {
        self.writer.as_ref().unwrap_or(&self.file)
    }

    /// Detaches the queue, so that the kernel hands it no more packets, or attaches it again
    /// (`TUNSETQUEUE`). A detached queue stays open. Attaching gives the queue the highest index;
    /// detaching moves the queue with the highest index into the hole.
    ///
    /// # Errors
    /// `EINVAL` if it already is as asked.
    pub fn set_attached(&self, attached: bool) -> io::Result<()> {
        set_attached(&self.file, attached)
    }

    /// Takes the descriptor over from `tun-rs`. The duplicate shares the open file, and the
    /// original goes away with `device`.
    fn adopt(device: SyncDevice) -> io::Result<Self> {
        device.set_nonblocking(true)?;
        Ok(Self { file: File::from(device.as_fd().try_clone_to_owned()?), writer: None })
    }

    fn set_virtio_header_len(&self) -> io::Result<()> {
        let len = VIRTIO_HEADER_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int, which `len` is.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
    }

    /// Asks for the wish, then for less and less of it until the kernel agrees.
    fn set_offloads_of(&self, wish: TunOffloadWish) -> io::Result<TunOffloads> {
        let tcp = wish.checksum && wish.tcp;
        let udp = wish.checksum && wish.udp;
        let attempts = [
            TunOffloads { checksum: wish.checksum, tcp, udp },
            TunOffloads { checksum: wish.checksum, tcp, udp: false },
            TunOffloads { checksum: wish.checksum, tcp: false, udp: false },
        ];
        for offloads in attempts {
            if self.set_offloads(offloads).is_ok() {
                return Ok(offloads);
            }
        }
        self.set_offloads(TunOffloads::default())?;
        Ok(TunOffloads::default())
    }

    fn set_offloads(&self, offloads: TunOffloads) -> io::Result<()> {
        let mut mask = 0;
        if offloads.checksum {
            mask |= libc::TUN_F_CSUM;
        }
        if offloads.tcp {
            mask |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        }
        if offloads.udp {
            mask |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
        }
        let mask = libc::c_ulong::from(mask);
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, mask) })
    }
}

impl AsRawFd for TunQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `dev_valid_name` of net/core/dev.c, and at most one `%d`.
fn check_name(name: &str) -> Result<(), TunError> {
    let forbidden = |byte: u8| byte == b'/' || byte == b':' || byte == 0 || is_blank(byte);
    let valid = (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(forbidden)
        && !name.replacen("%d", "", 1).contains('%');
    if valid { Ok(()) } else { Err(TunError::NameInvalid { name: name.to_owned() }) }
}

/// The kernel's `isspace`, which counts the no-break space of Latin-1 in.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

/// Opens the control node once by ourselves, because its errors mean something else than those of
/// making a device.
fn check_node() -> Result<(), TunError> {
    let attempt = File::options().read(true).write(true).open("/dev/net/tun");
    match attempt.map_err(|source| (source.kind(), source)) {
        Ok(_) => Ok(()),
        Err((io::ErrorKind::PermissionDenied, source)) => Err(TunError::NodeForbidden { source }),
        Err((_, source)) => Err(TunError::NodeMissing { source }),
    }
}

/// A second user of a device would silently be given some of the first one's flows, and would
/// change its offloads: so only a device that nobody has open is adopted.
fn check_occupant(name: &str) -> Result<(), TunError> {
    let name = name.to_owned();
    match link::occupant(&name) {
        Ok(Occupant::Nobody | Occupant::Tun { multi_queue: true, open_queues: 0 }) => Ok(()),
        Ok(Occupant::Tun { multi_queue: true, .. }) => Err(TunError::NameInUse { name }),
        Ok(Occupant::Tun { multi_queue: false, .. } | Occupant::Foreign) => {
            Err(TunError::NotAdoptable { name })
        }
        Err(source) => Err(TunError::Refused { name, operation: "RTM_GETLINK", source }),
    }
}

fn attach_queues(name: &str, queues: usize) -> Result<Vec<SyncDevice>, TunError> {
    let first = DeviceBuilder::new()
        .name(name)
        .with(|options| {
            options.multi_queue(true).offload(true);
        })
        .inherit_enable_state()
        .build_sync()
        .map_err(|source| attach_error(name, source))?;
    let mut devices = vec![first];
    while devices.len() < queues {
        let next = devices[0].try_clone().map_err(|source| attach_error(name, source))?;
        devices.push(next);
    }
    Ok(devices)
}

/// One more queue of a device that this process has open.
fn attach_queue(name: &str) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open("/dev/net/tun")?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let mut request = link::request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq, which `request` is.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

fn set_attached(queue: &File, attached: bool) -> io::Result<()> {
    let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let mut request = link::request("");
    request.ifr_ifru.ifru_flags = flag as libc::c_short;
    // SAFETY: TUNSETQUEUE reads an ifreq, which `request` is.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) })
}

fn attach_error(name: &str, source: io::Error) -> TunError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM) => TunError::NotPermitted { name },
        Some(libc::EBUSY) => TunError::NameInUse { name },
        _ => TunError::Refused { name, operation: "TUNSETIFF", source },
    }
}

fn refused(name: &str, operation: &'static str) -> impl FnOnce(io::Error) -> TunError {
    move |source| TunError::Refused { name: name.to_owned(), operation, source }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
