//! One `recvmmsg`, many messages.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::UdpSocket;
use super::address::Name;
use super::control_message::{self, RECEIVE_SPACE, Space};
use crate::sys::arena::Arena;

/// How often an error left by an earlier datagram is cleared before it is passed on.
const STALE_ERRORS_MAX: u32 = 4;

/// Messages received in one call, each in a slot of one arena, where they can be opened in place.
/// Nothing is allocated after construction.
pub struct RecvBatch {
    arena: Arena,
    slot_len: usize,
    metas: Vec<ReceivedMeta>,
    scratch: Scratch,
}

/// What is known about one received message: a datagram, or an aggregate of datagrams of one
/// sender that the kernel put together (`UDP_GRO`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMeta {
    /// Where it lies in the arena.
    pub range: Range<usize>,
    /// The sender, an IPv4 one as IPv4 also on a dual-stack socket.
    pub from: SocketAddr,
    /// Our address that it was sent to, in the same way.
    pub local: Option<IpAddr>,
    /// The length of every datagram in it but the last, which may be shorter. At least 1, also
    /// for an empty datagram.
    pub stride: usize,
    /// The two ECN bits of the outer header; of an aggregate all headers had the same.
    pub ecn: u8,
    /// The slot or the room for control messages was too short and something is missing.
    pub truncated: bool,
}

impl ReceivedMeta {
    /// Where each of its datagrams lies in the arena.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.range;
        let stride = self.stride;
        (0..(end - start).div_ceil(stride).max(1)).map(move |number| {
            let first = start + number * stride;
            first..end.min(first + stride)
        })
    }
}

impl RecvBatch {
    /// A batch of `slots` slots, at least 1, of `slot_len` bytes. A slot that is shorter than
    /// 64 KiB cuts the largest aggregates off. The memory is mapped but not touched: what it
    /// weighs is what has arrived.
    #[must_use]
    pub fn new(slots: usize, slot_len: usize) -> Self {
        let slots = slots.max(1);
        Self {
            arena: Arena::new(slots * slot_len),
            slot_len,
            metas: Vec::with_capacity(slots),
            scratch: Scratch::new(slots),
        }
    }

    /// Receives what waits, as much as there are slots for, in place of what was there before.
    /// Returns the number of messages.
    ///
    /// # Errors
    /// `WouldBlock` if nothing waits.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.metas.clear();
        let mut stale_errors = 0;
        let received = loop {
            self.scratch.prepare(&mut self.arena, self.slot_len);
            match self.scratch.receive(socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if error.kind() != io::ErrorKind::WouldBlock
                        && stale_errors < STALE_ERRORS_MAX =>
                {
                    stale_errors += 1;
                }
                result => break result?,
            }
        };
        for slot in 0..received {
            let meta = self.scratch.meta(slot, self.slot_len);
            self.metas.push(meta);
        }
        Ok(received)
    }

    /// The message in slot `index` of those last received.
    #[inline]
    #[must_use]
    pub fn message(&self, index: usize) -> Option<&ReceivedMeta> {
        self.metas.get(index)
    }

    /// The messages last received.
    #[inline]
    #[must_use]
    pub fn messages(&self) -> &[ReceivedMeta] {
        &self.metas
    }

    /// The arena, to open packets in place.
    #[inline]
    pub fn arena_mut(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// The messages last received and the arena they lie in.
    #[inline]
    pub fn split(&mut self) -> (&[ReceivedMeta], &mut [u8]) {
        (&self.metas, &mut self.arena)
    }
}

/// The kernel's structures, rebuilt for every call.
struct Scratch {
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Space<RECEIVE_SPACE>]>,
}

// SAFETY: the pointers inside are followed by `recvmmsg` alone, in the same borrow of the batch
// that has just written them; between calls they are dead, on whichever thread.
unsafe impl Send for Scratch {}

impl Scratch {
    fn new(slots: usize) -> Self {
        // SAFETY: both are C structures of integers and pointers, for which zero is valid.
        let (header, piece): (libc::mmsghdr, libc::iovec) = unsafe { std::mem::zeroed() };
        Self {
            headers: vec![header; slots].into_boxed_slice(),
            pieces: vec![piece; slots].into_boxed_slice(),
            names: vec![Name::empty(); slots].into_boxed_slice(),
            controls: vec![Space::empty(); slots].into_boxed_slice(),
        }
    }

    /// Points every header at its slot. All lengths are set anew, because the kernel overwrites
    /// them with what it used.
    fn prepare(&mut self, arena: &mut [u8], slot_len: usize) {
        let base = arena.as_mut_ptr();
        debug_assert!(arena.len() >= self.headers.len() * slot_len);
        for (slot, header) in self.headers.iter_mut().enumerate() {
            // SAFETY: the arena has a slot for every header, so the offset stays inside it.
            let start = unsafe { base.add(slot * slot_len) };
            self.pieces[slot] = libc::iovec { iov_base: start.cast(), iov_len: slot_len };
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut self.names[slot]).cast();
            header.msg_namelen = Name::LEN;
            header.msg_iov = &raw mut self.pieces[slot];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[slot].0.as_mut_ptr().cast();
            header.msg_controllen = RECEIVE_SPACE;
            header.msg_flags = 0;
        }
    }

    /// Receives into the headers, which `prepare` has just written.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // SAFETY: every header points into this scratch and to its own slot of the arena, which
        // the caller owns mutably; `prepare` gave the lengths of all of them.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    fn meta(&self, slot: usize, slot_len: usize) -> ReceivedMeta {
        let header = &self.headers[slot];
        let start = slot * slot_len;
        let len = (header.msg_len as usize).min(slot_len);
        let control_len = header.msg_hdr.msg_controllen.min(RECEIVE_SPACE);
        let control = control_message::decode(&self.controls[slot].0[..control_len]);
        // UDP always names the sender; the unspecified address stands for a kernel that does not.
        let nobody = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        let from = self.names[slot].decode().unwrap_or(nobody);
        ReceivedMeta {
            range: start..start + len,
            from,
            local: control.local,
            stride: control.segment_size.unwrap_or(len).max(1),
            ecn: control.ecn,
            truncated: header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RecvBatch;
    use crate::limits::{RECEIVE_SLOT_LEN, RECEIVE_SLOTS};
    use crate::sys::arena::resident_pages;
    use crate::sys::testing::{in_namespace, wait_readable};
    use crate::sys::udp::{UdpOptions, UdpSocket};

    #[test]
    fn a_batch_weighs_what_has_arrived() {
        in_namespace(|| {
            let any = "127.0.0.1:0".parse().unwrap();
            let socket = UdpSocket::bind(any, &UdpOptions::default()).unwrap();
            let mut batch = RecvBatch::new(RECEIVE_SLOTS, RECEIVE_SLOT_LEN);
            assert_eq!(resident_pages(&batch.arena), 0);
            let sender = std::net::UdpSocket::bind(any).unwrap();
            sender.send_to(&[1; 100], socket.local_addr()).unwrap();
            assert!(wait_readable(&socket));
            assert_eq!(batch.receive(&socket).unwrap(), 1);
            assert_eq!(resident_pages(&batch.arena), 1);
        });
    }
}
