//! What server and client open alike: the TUN device, its link, the switches.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use caps::Capability;
use ipnet::IpNet;

use crate::config::{Switch, TunConfig, TuningConfig};
use crate::control::runtime::DaemonInfo;
use crate::daemon::{DaemonError, reload};
use crate::dataplane::ForwarderOptions;
use crate::host::link::{self, LinkError};
use crate::host::netlink::Netlink;
use crate::host::privileges::{self, Reserve};
use crate::host::upkeep::Upkeep;
use crate::packet::CoalesceOptions;
use crate::sys::process;
use crate::sys::tun::{TunDevice, TunOffloadWish, TunOffloads};
use crate::sys::udp::{UdpOptions, UdpSocket};
use crate::telemetry::status::OffloadStatus;
use crate::wire::Features;

/// The capabilities a daemon keeps once everything is open: routes and links change later.
const CAPABILITIES_KEPT: [Capability; 1] = [Capability::CAP_NET_ADMIN];

/// Makes room for the sockets of many workers on many addresses.
pub(super) fn allow_many_files() {
    if let Err(error) = process::raise_open_files_limit() {
        log::debug!("the limit on open files stays as it is: {error}");
    }
}

/// Opens the TUN device with a queue for each worker, gives it its addresses and brings it up.
///
/// With `fixed_flows` every flow stays on the queue that the kernel has chosen, as must be on one
/// side of a session: where each follows the other, both may go round for ever.
pub(super) fn open_tun(
    config: &TunConfig,
    addresses: &[IpNet],
    queues: usize,
    fixed_flows: bool,
    tuning: &TuningConfig,
) -> Result<(TunDevice, Upkeep), DaemonError> {
    let mut netlink = Netlink::open().map_err(LinkError::from)?;
    let wish = TunOffloadWish {
        checksum: tuning.tun_checksum_offload.wanted(),
        tcp: tuning.tun_checksum_offload.wanted() && tuning.tun_tcp_segmentation.wanted(),
        udp: tuning.tun_checksum_offload.wanted() && tuning.tun_udp_segmentation.wanted(),
    };
    let mut device = TunDevice::open(&config.name, queues, wish)?;
    if fixed_flows {
        device.fix_flows()?;
    }
    let granted = device.offloads;
    warn_if_absent("tun_checksum_offload", tuning.tun_checksum_offload, granted.checksum);
    warn_if_absent("tun_tcp_segmentation", tuning.tun_tcp_segmentation, granted.tcp);
    warn_if_absent("tun_udp_segmentation", tuning.tun_udp_segmentation, granted.udp);
    let (name, mtu) = (&device.name, u32::from(config.mtu));
    let link = link::bring_up(&mut netlink, name, mtu, config.txqueuelen, addresses)?;
    Ok((device, Upkeep::new(netlink, link)))
}

/// How sockets are bound.
pub(super) fn udp_options(tuning: &TuningConfig, mark: Option<u32>) -> UdpOptions {
    UdpOptions {
        reuse_port: false,
        mark,
        receive_buffer: Some(tuning.socket_buffer_bytes),
        send_buffer: Some(tuning.socket_buffer_bytes),
        gro: tuning.udp_gro.wanted(),
        v6_only: false,
        follow_routes: false,
    }
}

/// Which offloads are in force, as the status report says it.
pub(super) fn offloads_in_force(
    tun: TunOffloads,
    socket: Option<&UdpSocket>,
    tuning: &TuningConfig,
    steering: bool,
) -> OffloadStatus {
    let udp_gso = tuning.udp_gso.wanted() && socket.is_some_and(UdpSocket::has_gso);
    let udp_gro = socket.is_some_and(UdpSocket::has_gro);
    warn_if_absent("udp_gso", tuning.udp_gso, udp_gso);
    warn_if_absent("udp_gro", tuning.udp_gro, udp_gro);
    OffloadStatus {
        tun_checksum: tun.checksum,
        tun_tcp_segmentation: tun.tcp,
        tun_udp_segmentation: tun.udp,
        udp_gso,
        udp_gro,
        steering,
    }
}

/// The switches of the workers.
pub(super) fn forwarder_options(
    offloads: &OffloadStatus,
    tuning: &TuningConfig,
    mtu: u16,
) -> ForwarderOptions {
    ForwarderOptions {
        udp_gso: offloads.udp_gso,
        coalesce: CoalesceOptions {
            tcp: offloads.tun_tcp_segmentation,
            udp: offloads.tun_udp_segmentation && tuning.coalesce_udp.wanted(),
            checksum_offload: offloads.tun_checksum,
        },
        plaintext_max: usize::from(mtu),
        copy_dscp: tuning.copy_dscp,
        spin: tuning.spin,
    }
}

/// What status reports say of a daemon.
pub(super) fn info(
    tun: &TunDevice,
    mtu: u16,
    endpoints: impl Iterator<Item = SocketAddr>,
    offloads: OffloadStatus,
) -> DaemonInfo {
    DaemonInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tun: tun.name.clone(),
        mtu: u32::from(mtu),
        endpoints: endpoints.map(|endpoint| endpoint.to_string()).collect(),
        offloads,
    }
}

/// What this side tells the other that it can take.
pub(super) fn features(offloads: &OffloadStatus) -> Features {
    if offloads.tun_checksum { Features::CHECKSUM_OFFLOAD } else { Features::empty() }
}

/// Makes the directory of a socket, if it is missing, while the rights for it are there.
pub(super) fn make_socket_directory(socket: &Path) -> Result<(), DaemonError> {
    match socket.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => fs::create_dir_all(directory)
            .map_err(|source| DaemonError::SocketDirectory { path: socket.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Gives up every privilege that is not needed from here on. No thread has been started yet.
///
/// `files` are read again by a reload. Where they are another user's, the right to read them stays
/// in reserve.
pub(super) fn drop_privileges<'a>(
    files: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<Reserve, DaemonError> {
    if let Some(missing) = privileges::describe_missing(&CAPABILITIES_KEPT) {
        log::warn!("{missing}");
    }
    reload::drop_privileges(&CAPABILITIES_KEPT, files)
}

fn warn_if_absent(key: &str, switch: Switch, present: bool) {
    if switch.insisted() && !present {
        log::warn!("tuning.{key} is on, but the kernel does not offer it; going on without");
    }
}
