//! What fuzz targets call, and `tests/corpora.rs` with every file of their corpora: whole workers,
//! one that reads what the bytes say, or is sent it by an authenticated peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use crate::dataplane::ForwarderOptions;
use crate::dataplane::messages::{Endpoint, SessionInstall, WorkerCommand};
use crate::dataplane::offline::{OfflineWorker, Sent};
use crate::limits::{
    DATA_HEADER_LEN, DATA_OVERHEAD_LEN, REJECT_AFTER, SPIN_DEFAULT, TUN_MTU_DEFAULT,
    VIRTIO_HEADER_LEN, padded_len,
};
use crate::packet::{CoalesceOptions, Parsed, Split, VirtioHeader};
use crate::routing::{PeerId, PrefixTable};
use crate::session::keys::LaneSecret;
use crate::session::lane::SendLane;
use crate::session::lanes::{LanePlan, Role};
use crate::sys::udp::ReceivedMeta;
use crate::telemetry::counters::SessionUsage;
use crate::telemetry::drops::DropReason;
use crate::wire::{Features, SessionIndex};

const SESSION: SessionIndex = SessionIndex(1);
const PEER: PeerId = PeerId(1);
/// The secrets of the lanes from client to server and back.
const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

/// A worker whose one peer owns every address and takes `features`, with a session made `now`.
fn worker(now: Instant, role: Role, features: Features) -> Option<OfflineWorker> {
    let options = ForwarderOptions {
        udp_gso: true,
        coalesce: CoalesceOptions::ALL,
        plaintext_max: usize::from(TUN_MTU_DEFAULT),
        copy_dscp: true,
        spin: SPIN_DEFAULT,
    };
    let mut worker = OfflineWorker::new(0, options).ok()?;
    worker.keep_written();
    let [up, down] = SECRETS.map(|secret| Arc::new(LaneSecret::new(secret)));
    let (send_secret, receive_secret) = match role {
        Role::Client => (up, down),
        Role::Server => (down, up),
    };
    let remote = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 20443).into();
    worker.command(WorkerCommand::InstallSession(Box::new(SessionInstall {
        peer: PEER,
        local: SESSION,
        remote: SESSION,
        plan: LanePlan::new(role, 1, 1, 0).ok()?,
        send_secret,
        receive_secret,
        expires: now + REJECT_AFTER,
        features,
        endpoint: Some(Endpoint { remote, local: None, listener: 0 }),
        usage: Arc::new(SessionUsage::new(1)),
        policy: None,
    })));
    let everything =
        [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)].map(|address| {
            let whole = ipnet::IpNet::new(address, 0).unwrap_or_else(|_| address.into());
            (whole, PEER)
        });
    worker.command(WorkerCommand::SetPrefixes(Arc::new(PrefixTable::from_entries(everything))));
    Some(worker)
}

/// The pieces of `data`, each behind its length in two bytes.
fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = data.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()));
        data = rest;
        Some(piece)
    })
}

/// What is written to TUN can be read from TUN.
fn check_written(worker: &mut OfflineWorker) {
    for frame in worker.take_written() {
        let parts = frame.split_first_chunk::<VIRTIO_HEADER_LEN>();
        let is_readable = parts.is_some_and(|(vnet, packet)| {
            Split::new(&VirtioHeader::parse(vnet), packet, false).is_ok()
                && Parsed::parse(packet).is_ok_and(|parsed| parsed.total_len == packet.len())
        });
        assert!(is_readable, "written to TUN: {frame:02x?}");
    }
}

/// A worker reads `data` as frames from TUN, and another gets what the first makes of them: it must
/// find nothing wrong with that.
pub fn worker_to_wire(now: Instant, data: &[u8]) {
    for features in [Features::CHECKSUM_OFFLOAD, Features::empty()] {
        let sides = worker(now, Role::Client, features).zip(worker(now, Role::Server, features));
        let Some((mut client, mut server)) = sides else { return };
        for frame in pieces(data) {
            client.encapsulate(&mut frame.to_vec());
            let Sent { messages, arena } = client.sent();
            server.decapsulate(now, messages, arena);
            check_written(&mut client);
            check_written(&mut server);
        }
        for reason in DropReason::ALL {
            let dropped = server.counters().drops.get(*reason);
            assert_eq!(dropped, 0, "the far end dropped: {}", reason.name());
        }
    }
}

/// A worker receives `data`, one plaintext after the other, sealed by its peer.
pub fn worker_from_wire(now: Instant, data: &[u8]) {
    let Some(mut server) = worker(now, Role::Server, Features::CHECKSUM_OFFLOAD) else { return };
    let [up, _] = SECRETS.map(LaneSecret::new);
    let mut peer = SendLane::new(&up, 0, SESSION);
    let (mut arena, mut messages) = (Vec::new(), Vec::new());
    for plaintext in pieces(data) {
        let mut slot = vec![0; DATA_OVERHEAD_LEN + padded_len(plaintext.len())];
        slot[DATA_HEADER_LEN..][..plaintext.len()].copy_from_slice(plaintext);
        if peer.seal(&mut slot).is_err() {
            return;
        }
        messages.push(ReceivedMeta {
            range: arena.len()..arena.len() + slot.len(),
            from: (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 1000).into(),
            local: None,
            stride: slot.len(),
            // The mark of the outer header changes with the position.
            ecn: messages.len() as u8 & 0b11,
            truncated: false,
        });
        arena.extend_from_slice(&slot);
    }
    server.decapsulate(now, &messages, &mut arena);
    check_written(&mut server);
    for reason in [DropReason::AuthenticationFailed, DropReason::Replayed, DropReason::LaneWrong] {
        assert_eq!(server.counters().drops.get(reason), 0, "{}", reason.name());
    }
}
