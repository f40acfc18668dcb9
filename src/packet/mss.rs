//! Clamping of TCP's maximum segment size to what fits the path (RFC 9293 section 3.7.1).

use super::checksum;
use super::field::{get_u16, ipv4, ipv6, put_u16, tcp};
use super::parse::{IpVersion, Parsed, Transport};

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_MSS_LEN: u8 = 4;

/// Lower the MSS option of a SYN so that the far end's full-sized segments fit packets of `mtu`
/// bytes. Says whether anything was changed; any other packet is left alone.
///
/// `partial` says that the checksum field holds only a pseudo-header sum, which does not cover the
/// option; a complete checksum is mended.
pub fn clamp(packet: &mut [u8], parsed: &Parsed, mtu: usize, partial: bool) -> bool {
    if parsed.transport != Some(Transport::Tcp)
        || packet[parsed.transport_offset + tcp::FLAGS] & tcp::SYN == 0
    {
        return false;
    }
    let headers_len = tcp::HEADER_LEN
        + match parsed.version {
            IpVersion::V4 => ipv4::HEADER_LEN,
            IpVersion::V6 => ipv6::HEADER_LEN,
        };
    let Some(limit) = mtu.checked_sub(headers_len).and_then(|limit| u16::try_from(limit).ok())
    else {
        return false;
    };
    let header = &mut packet[parsed.transport_offset..parsed.payload_offset];
    let Some(at) = mss_value_offset(header) else { return false };
    let old = get_u16(header, at);
    if old <= limit {
        return false;
    }
    put_u16(header, at, limit);
    if !partial {
        // A value at an odd offset straddles two checksum words, each byte on the other side:
        // swapping the bytes gives the same sum (RFC 1071 section 2 (B)).
        let (old, new) = match at % 2 {
            0 => (old, limit),
            _ => (old.swap_bytes(), limit.swap_bytes()),
        };
        let checksum = checksum::update(get_u16(header, tcp::CHECKSUM), old, new);
        put_u16(header, tcp::CHECKSUM, checksum);
    }
    true
}

/// Where the value of the MSS option stands in a TCP header.
fn mss_value_offset(header: &[u8]) -> Option<usize> {
    let mut at = tcp::HEADER_LEN;
    loop {
        match *header.get(at)? {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            kind => {
                let len = *header.get(at + 1)?;
                if kind == OPTION_MSS && len == OPTION_MSS_LEN && at + 4 <= header.len() {
                    return Some(at + 2);
                }
                if len < 2 {
                    return None;
                }
                at += usize::from(len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::{Build, transport_checksum_is_right};

    const MSS_1460: [u8; 4] = [2, 4, 0x05, 0xb4];

    fn syn(build: Build, options: &[u8]) -> Build {
        Build { tcp_flags: tcp::SYN, tcp_options: options.to_vec(), payload: vec![], ..build }
    }

    fn clamp_whole(packet: &mut [u8], mtu: usize) -> bool {
        let parsed = Parsed::parse(packet).unwrap();
        clamp(packet, &parsed, mtu, false)
    }

    #[test]
    fn a_larger_mss_is_lowered_and_the_checksum_mended() {
        for (build, limit) in [(Build::tcp_v4(), 1408 - 40), (Build::tcp_v6(), 1408 - 60)] {
            let mut packet = syn(build.clone(), &MSS_1460).packet();
            assert!(clamp_whole(&mut packet, 1408));
            let [high, low] = u16::to_be_bytes(limit);
            assert_eq!(packet, syn(build, &[2, 4, high, low]).packet());
            assert!(transport_checksum_is_right(&packet));
        }
    }

    #[test]
    fn an_option_at_an_odd_offset_is_mended_too() {
        let mut packet = syn(Build::tcp_v4(), &[1, 2, 4, 0x05, 0xb4, 1, 1, 0]).packet();
        assert!(clamp_whole(&mut packet, 1280));
        assert!(transport_checksum_is_right(&packet));
        assert_eq!(packet[43..45], 1240u16.to_be_bytes());
    }

    #[test]
    fn a_partial_checksum_is_not_touched() {
        let mut packet = syn(Build::tcp_v6(), &MSS_1460).partial().packet();
        let before = packet.clone();
        let parsed = Parsed::parse(&packet).unwrap();
        assert!(clamp(&mut packet, &parsed, 1408, true));
        assert_eq!(packet[..62], before[..62]);
        assert_eq!(packet[62..64], 1348u16.to_be_bytes());
    }

    #[test]
    fn everything_else_is_left_alone() {
        let not_syn = Build { tcp_options: MSS_1460.to_vec(), ..Build::tcp_v4() };
        let cases = [
            syn(Build::tcp_v4(), &[2, 4, 0x05, 0x50]), // small enough
            syn(Build::tcp_v4(), &[]),                 // no option
            syn(Build::tcp_v4(), &[0, 2, 4, 5, 0xb4, 0, 0, 0]), // behind the end of the list
            syn(Build::tcp_v4(), &[3, 0, 2, 4]),       // an option without a length
            syn(Build::tcp_v4(), &[1, 1, 2, 4]),       // cut off
            syn(Build::tcp_v4(), &[1, 1, 1, 2]),       // cut off
            not_syn,
            Build::udp_v4(),
        ];
        for build in cases {
            let mut packet = build.packet();
            assert!(!clamp_whole(&mut packet, 1408), "{build:?}");
            assert_eq!(packet, build.packet());
        }
        let mut packet = syn(Build::tcp_v6(), &MSS_1460).packet();
        assert!(!clamp_whole(&mut packet, 59), "an MTU that fits no segment");
    }
}
