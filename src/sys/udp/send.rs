//! Many messages, one `sendmmsg`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

use thiserror::Error;

use super::UdpSocket;
use super::address::Name;
use super::control_message::{self, SEND_SPACE, Space};

/// Where a message goes and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SendTarget {
    /// The far end's address and port.
    pub remote: SocketAddr,
    /// The source address; `None` lets the kernel choose.
    pub local: Option<IpAddr>,
}

/// Messages waiting to be sent, each a range of an arena that the caller keeps: a datagram, or a
/// train of datagrams of one size, the last of which may be shorter. Nothing is allocated after
/// construction.
///
/// The order of calls: [`push`](Self::push) until done or full, then [`send`](Self::send). If that
/// reports `blocked`, the rest stays queued and the arena must stay as it is; once the socket is
/// writable, call `send` again. When nothing is queued any more the indices start from 0 again.
pub struct SendBatch {
    messages: Vec<Queued>,
    /// The first message that has not been dealt with.
    next: usize,
    capacity: usize,
    gso: bool,
    scratch: Scratch,
}

/// The batch has no room for another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the send batch is full")]
pub struct SendBatchFull;

/// What one call of [`SendBatch::send`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// System calls made.
    pub calls: usize,
    /// Datagrams the kernel took.
    pub datagrams: usize,
    /// Bytes of UDP payload the kernel took.
    pub bytes: usize,
    /// Trains that the kernel refused and that were sent as single datagrams instead.
    pub train_fallbacks: usize,
    /// Datagrams taken that were meant to go in a train, which was refused or switched off.
    pub split_datagrams: usize,
    /// Datagrams given up, each reported as a fault.
    pub failed: usize,
    /// The socket's buffer is full: the rest is still queued.
    pub blocked: bool,
}

/// Something went wrong with one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFault {
    /// The message, counted in the order of `push` since the batch was last empty.
    pub index: usize,
    /// What went wrong.
    pub kind: SendFaultKind,
    /// The kernel's error number.
    pub errno: i32,
    /// Datagrams given up; 0 if the message is tried again in another way.
    pub datagrams: usize,
}

/// What went wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFaultKind {
    /// The kernel refused a train (`EIO`, `EINVAL`, `EMSGSIZE`, `EOPNOTSUPP`); its datagrams are
    /// sent one by one. It may take the next: route, device and size decide.
    TrainRefused,
    /// The source address is not ours any more (`EINVAL` or `ENETUNREACH`, depending on family and
    /// kernel); the message has been sent from whichever address the kernel chose, and the caller
    /// should forget the old one.
    SourceGone,
    /// A datagram of `datagram_len` bytes does not fit the path (`EMSGSIZE`).
    TooBig {
        /// Its UDP payload, in bytes.
        datagram_len: usize,
    },
    /// Refused for another reason: no route, a firewall, no memory, a range outside the arena
    /// (`EFAULT`).
    Refused,
}

struct Queued {
    /// What is left to send.
    range: Range<usize>,
    target: SendTarget,
    /// Length of every datagram but the last of a train; 0 for a single datagram.
    segment_size: usize,
    tos: u8,
    /// A train that goes out as single datagrams.
    split: bool,
    /// The error that sending from the wished source met, after which the kernel chooses one.
    source_refused: Option<i32>,
}

impl Queued {
    const fn is_train(&self) -> bool {
        self.segment_size != 0 && !self.split
    }

    fn datagrams(&self) -> usize {
        match self.segment_size {
            0 => 1,
            size => self.range.len().div_ceil(size),
        }
    }

    /// The length of its first datagram.
    fn datagram_len(&self) -> usize {
        match self.segment_size {
            0 => self.range.len(),
            size => size.min(self.range.len()),
        }
    }

    /// How much of it one message header takes along.
    fn next_len(&self) -> usize {
        if self.is_train() { self.range.len() } else { self.datagram_len() }
    }
}

impl SendBatch {
    /// A batch for up to `messages` messages, at least 1.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        let capacity = messages.max(1);
        Self {
            messages: Vec::with_capacity(capacity),
            next: 0,
            capacity,
            gso: true,
            scratch: Scratch::new(capacity),
        }
    }

    /// Whether nothing waits to be sent.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages were pushed since nothing was queued.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether no further message can be pushed.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.messages.len() == self.capacity
    }

    /// Forgets all that waits.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.next = 0;
    }

    /// With `false`, trains are sent as single datagrams from the start, without a fault.
    pub fn set_gso(&mut self, enabled: bool) {
        self.gso = enabled;
    }

    /// Queues the message that lies in `range` of the arena and returns its index. With a
    /// `segment_size` below the length it is a train; the caller keeps to the kernel's bounds
    /// (`limits::GSO_SEGMENTS_MAX`, `limits::UDP_PAYLOAD_MAX`). `tos`: the type of service
    /// (IPv4) or traffic class (IPv6) of the outer header, whose two low bits are ECN.
    ///
    /// # Errors
    /// [`SendBatchFull`].
    #[inline]
    pub fn push(
        &mut self,
        range: Range<usize>,
        target: &SendTarget,
        segment_size: Option<u16>,
        tos: u8,
    ) -> Result<usize, SendBatchFull> {
        if self.is_full() {
            return Err(SendBatchFull);
        }
        // A segment size on a single datagram costs the kernel a needless detour.
        let segment_size = segment_size.map_or(0, usize::from);
        let segment_size = if segment_size < range.len() { segment_size } else { 0 };
        self.messages.push(Queued {
            range,
            target: *target,
            segment_size,
            tos,
            split: !self.gso,
            source_refused: None,
        });
        Ok(self.messages.len() - 1)
    }

    /// Sends what waits until all is dealt with or the socket blocks. Never spins: every turn
    /// either sends, gives something up, or tries it in the next simpler way.
    pub fn send(
        &mut self,
        socket: &UdpSocket,
        arena: &[u8],
        mut on_fault: impl FnMut(SendFault),
    ) -> SendReport {
        let mut report = SendReport::default();
        // An error that an earlier datagram provoked is reported once; the next try is innocent.
        let mut stale_error_seen = false;
        while self.next < self.messages.len() {
            let headers = self.fill_headers(socket.is_v6(), arena);
            let result = if headers == 0 {
                Err(io::Error::from_raw_os_error(libc::EFAULT))
            } else {
                report.calls += 1;
                self.scratch.send(socket, headers)
            };
            match result.map_err(|error| error.raw_os_error().unwrap_or(0)) {
                Ok(accepted) => {
                    if let Some(fault) = self.take_source_fault() {
                        on_fault(fault);
                    }
                    self.advance(accepted, &mut report);
                    stale_error_seen = false;
                }
                Err(libc::EINTR) => {}
                Err(libc::EAGAIN) => {
                    report.blocked = true;
                    return report;
                }
                Err(libc::ECONNREFUSED) if !stale_error_seen => stale_error_seen = true,
                Err(errno) => {
                    if let Some(fault) = self.handle_refusal(errno, &mut report) {
                        on_fault(fault);
                    }
                    stale_error_seen = false;
                }
            }
        }
        self.clear();
        report
    }

    /// Builds the headers of what waits, as many as fit, up to a message outside the arena.
    fn fill_headers(&mut self, socket_is_v6: bool, arena: &[u8]) -> usize {
        let mut headers = 0;
        for message in &self.messages[self.next..] {
            let Some(bytes) = arena.get(message.range.clone()) else { break };
            let is_train = message.is_train();
            let mut rest = bytes;
            loop {
                if headers == self.capacity {
                    return headers;
                }
                let len = if is_train || message.segment_size == 0 {
                    rest.len()
                } else {
                    message.segment_size.min(rest.len())
                };
                let (now, later) = rest.split_at(len);
                self.scratch.set(headers, now, message, socket_is_v6);
                headers += 1;
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
        }
        headers
    }

    /// The kernel took the first `headers` of those last built.
    fn advance(&mut self, headers: usize, report: &mut SendReport) {
        for _ in 0..headers {
            let Some(message) = self.messages.get_mut(self.next) else { return };
            let len = message.next_len();
            report.datagrams += if message.is_train() { message.datagrams() } else { 1 };
            report.split_datagrams += usize::from(message.split && message.segment_size != 0);
            report.bytes += len;
            message.range.start += len;
            if message.range.is_empty() {
                self.next += 1;
            }
        }
    }

    /// The kernel refused the first message that waits: tries it in a simpler way if there is
    /// one, gives it up otherwise.
    fn handle_refusal(&mut self, errno: i32, report: &mut SendReport) -> Option<SendFault> {
        let index = self.next;
        let message = &mut self.messages[index];
        let mut fault = SendFault { index, kind: SendFaultKind::Refused, errno, datagrams: 0 };
        let about_train =
            matches!(errno, libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP);
        if message.is_train() && about_train {
            message.split = true;
            report.train_fallbacks += 1;
            fault.kind = SendFaultKind::TrainRefused;
            return Some(fault);
        }
        let about_source = matches!(errno, libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL);
        if about_source && message.target.local.take().is_some() {
            // The next try tells whether it was the source: then that is what is reported.
            message.source_refused = Some(errno);
            return None;
        }
        let mut kept_len = 0;
        if errno == libc::EMSGSIZE {
            let datagram_len = message.datagram_len();
            fault.kind = SendFaultKind::TooBig { datagram_len };
            // Its equals in the train fare no better; the shorter one at the end may fit.
            kept_len = message.range.len() % datagram_len.max(1);
        }
        fault.datagrams = message.datagrams() - usize::from(kept_len > 0);
        report.failed += fault.datagrams;
        if kept_len > 0 {
            message.range.start = message.range.end - kept_len;
        } else {
            self.next += 1;
        }
        Some(fault)
    }

    /// The kernel took the first message that waits: was its wished source the obstacle?
    fn take_source_fault(&mut self) -> Option<SendFault> {
        let errno = self.messages.get_mut(self.next)?.source_refused.take()?;
        Some(SendFault { index: self.next, kind: SendFaultKind::SourceGone, errno, datagrams: 0 })
    }
}

/// The kernel's structures, rebuilt for every call.
struct Scratch {
    headers: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Space<SEND_SPACE>]>,
}

// SAFETY: the pointers inside are read by `sendmmsg` alone, in the same borrow of the batch that
// has just written them; between calls they are dead, on whichever thread.
unsafe impl Send for Scratch {}

impl Scratch {
    fn new(capacity: usize) -> Self {
        // SAFETY: both are C structures of integers and pointers, for which zero is valid.
        let (header, piece): (libc::mmsghdr, libc::iovec) = unsafe { std::mem::zeroed() };
        Self {
            headers: vec![header; capacity].into_boxed_slice(),
            pieces: vec![piece; capacity].into_boxed_slice(),
            names: vec![Name::empty(); capacity].into_boxed_slice(),
            controls: vec![Space::empty(); capacity].into_boxed_slice(),
        }
    }

    /// Makes header `slot` send `bytes` the way `message` says.
    #[inline]
    fn set(&mut self, slot: usize, bytes: &[u8], message: &Queued, socket_is_v6: bool) {
        let (name, name_len) = Name::encode(message.target.remote, socket_is_v6);
        self.names[slot] = name;
        let train_size = if message.is_train() { Some(message.segment_size as u16) } else { None };
        let control = &mut self.controls[slot];
        let control_len =
            control_message::encode(control, &message.target, train_size, message.tos);
        self.pieces[slot] =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_name = (&raw mut self.names[slot]).cast();
        header.msg_namelen = name_len;
        header.msg_iov = &raw mut self.pieces[slot];
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control_len;
    }

    /// Sends the first `count` headers, which `set` has just written, and returns how many the
    /// kernel took.
    fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        debug_assert!(count <= self.headers.len());
        // SAFETY: `count` headers exist and point into this scratch and to slices of the arena
        // that the caller of `SendBatch::send` still borrows; the kernel only reads the pieces.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}
