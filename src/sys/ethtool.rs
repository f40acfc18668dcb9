//! Offload switches of a network interface (`SIOCETHTOOL`, linux/ethtool.h), for laboratories that
//! want a virtual link to behave like a wire.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use super::link;

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_SFEATURES: u32 = 0x3b;
/// The string set that names the features (`ETH_SS_FEATURES`).
const FEATURE_NAMES: u32 = 4;
/// Bytes of one name (`ETH_GSTRING_LEN`).
const NAME_LEN: usize = 32;
/// Set in the result of `ETHTOOL_SFEATURES` if a feature cannot be changed.
const UNCHANGEABLE: libc::c_int = 1;
/// More features than any kernel has; what is beyond is not looked at.
const FEATURES_MAX: usize = 1024;

/// Every feature that lets packets larger than the MTU leave an interface.
const SEGMENTATION: &[&str] = &[
    "tx-generic-segmentation",
    "tx-gso-list",
    "tx-sctp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
];

/// Switches every segmentation offload of an interface of the calling thread's network namespace:
/// off, each packet is cut to the MTU before it reaches the interface, as on a real wire without
/// hardware help.
///
/// # Errors
/// `ENODEV` for a name that does not exist, `EPERM` without `CAP_NET_ADMIN`.
pub fn set_segmentation(interface: &str, on: bool) -> io::Result<()> {
    set_features(interface, SEGMENTATION, on)
}

/// Switches generic receive offload of an interface: on, the receiver joins packets of a flow
/// before the stack sees them. A veth interface has it off at first.
///
/// # Errors
/// As [`set_segmentation`].
pub fn set_receive_aggregation(interface: &str, on: bool) -> io::Result<()> {
    set_features(interface, &["rx-gro"], on)
}

/// Switches the named features; names this kernel does not have are passed over.
fn set_features(interface: &str, wanted: &[&str], on: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let names = feature_names(&socket, interface)?;
    // struct ethtool_sfeatures: command, number of blocks, then per block of 32 features the mask
    // of those to change and their values.
    let blocks = names.len().div_ceil(32);
    let mut command = vec![0_u32; 2 + 2 * blocks];
    command[0] = ETHTOOL_SFEATURES;
    command[1] = blocks as u32;
    for (bit, _) in names.iter().enumerate().filter(|(_, name)| wanted.contains(&name.as_str())) {
        let (block, mask) = (2 + 2 * (bit / 32), 1 << (bit % 32));
        command[block] |= mask;
        if on {
            command[block + 1] |= mask;
        }
    }
    if ethtool(&socket, interface, &mut command)? & UNCHANGEABLE != 0 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{interface} does not let its offloads be changed"),
        ));
    }
    Ok(())
}

/// The names of all features, by bit number.
fn feature_names(socket: &Socket, interface: &str) -> io::Result<Vec<String>> {
    // struct ethtool_sset_info: command, reserved, 64-bit mask of sets, one length per set.
    let (low, high) = if cfg!(target_endian = "little") { (2, 3) } else { (3, 2) };
    let mut info = [0_u32; 5];
    info[0] = ETHTOOL_GSSET_INFO;
    info[low] = 1 << FEATURE_NAMES;
    info[high] = 0;
    ethtool(socket, interface, &mut info)?;
    let count = (info[4] as usize).min(FEATURES_MAX);
    // struct ethtool_gstrings: command, set, length, then the names.
    let mut strings = vec![0_u32; 3 + count * NAME_LEN / 4];
    strings[0] = ETHTOOL_GSTRINGS;
    strings[1] = FEATURE_NAMES;
    strings[2] = count as u32;
    ethtool(socket, interface, &mut strings)?;
    let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let name = |raw: &[u8]| {
        let text = raw.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    Ok(bytes.chunks_exact(NAME_LEN).map(name).collect())
}

/// Issues one ethtool command, which must be as long as its own length fields say.
fn ethtool(socket: &Socket, interface: &str, command: &mut [u32]) -> io::Result<libc::c_int> {
    let mut request = link::request(interface);
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads the request and reads and fills the command it points to; both
    // live across the call, and each caller sized the command by the counts written into it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
