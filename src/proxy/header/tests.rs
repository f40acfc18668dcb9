//! Headers against `proxy-protocol.txt`, sections 2.1 and 2.2.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn ends(source: &str, destination: &str) -> Option<Ends> {
    Some(Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
}

/// Reads what stands in front of "payload", in any pieces.
fn read(header: &[u8]) -> Result<Option<Ends>, HeaderError> {
    let input = [header, b"payload"].concat();
    let whole = parse(&input);
    let mut first = None;
    for len in 0..=input.len() {
        match parse(&input[..len]) {
            Ok(Parsed::NeedMore) => assert_eq!(first, None, "{len}"),
            other => assert_eq!(other, *first.get_or_insert(other), "{len}"),
        }
    }
    assert_eq!(first, Some(whole), "the whole says the same as the pieces");
    match whole? {
        Parsed::Whole { used, ends } => {
            assert_eq!(&input[used..], b"payload");
            Ok(ends)
        }
        Parsed::NeedMore => panic!("{header:?} is whole"),
    }
}

/// A header of version 2.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &len, block].concat()
}

const IPV4: &[u8] = b"\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb";

#[test]
fn lines_are_read_by_section_2_1() {
    let table: [(&str, Option<Ends>); 8] = [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            ends("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 0 443\r\n", ends("192.0.2.1:0", "198.51.100.2:443")),
        ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", ends("[2001:db8::1]:1", "[::1]:2")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", ends("192.0.2.1:1", "[::1]:2")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN \r\n", None),
        ("PROXY UNKNOWN whatever stands here\r\n", None),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
             ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            None,
        ),
    ];
    for (line, expected) in table {
        assert_eq!(read(line.as_bytes()), Ok(expected), "{line}");
    }
    assert_eq!(table[7].0.len(), PROXY_PROTOCOL_LINE_LEN_MAX, "the worst case of section 2.1");
}

#[test]
fn malformed_lines_are_refused() {
    let long = format!("PROXY UNKNOWN {}", "x".repeat(PROXY_PROTOCOL_LINE_LEN_MAX));
    let table = [
        ("GET / HTTP/1.1\r\n", HeaderError::Missing),
        ("PROXX", HeaderError::Missing),
        ("\x05\x01\0", HeaderError::Missing),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", HeaderError::LineEnd),
        ("PROXY UNKNOWN\r\r\n", HeaderError::LineEnd),
        ("PROXY TCP4 192.0.2.1\r 192.0.2.2 1 2\r\n", HeaderError::LineEnd),
        (&long, HeaderError::LineEnd),
        ("PROXY \r\n", HeaderError::Line),
        ("PROXY UNKNOWNS\r\n", HeaderError::Line),
        ("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", HeaderError::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", HeaderError::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", HeaderError::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", HeaderError::Line),
        ("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", HeaderError::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", HeaderError::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", HeaderError::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", HeaderError::Line),
        ("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", HeaderError::Line),
        ("PROXY TCP4 ::1 ::2 1 2\r\n", HeaderError::Line),
        ("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", HeaderError::Line),
        ("PROXY TCP4 example.com 192.0.2.2 1 2\r\n", HeaderError::Line),
    ];
    for (line, error) in table {
        assert_eq!(read(line.as_bytes()), Err(error), "{line:?}");
    }
}

#[test]
fn binary_headers_are_read_by_section_2_2() {
    let real = ends("192.0.2.1:56324", "198.51.100.2:443");
    let six: Vec<u8> = (0..36).collect();
    let six_ends = ends(
        "[1:203:405:607:809:a0b:c0d:e0f]:8225",
        "[1011:1213:1415:1617:1819:1a1b:1c1d:1e1f]:8739",
    );
    let extra = [IPV4, b"\x04\0\x03abc\xe0\0\0"].concat();
    let table: [(u8, u8, &[u8], Option<Ends>); 14] = [
        (PROXIED, TCP_IPV4, IPV4, real),
        (PROXIED, TCP_IPV4, &extra, real),
        (PROXIED, TCP_IPV6, &six, six_ends),
        // UDP, UNIX, and unspecified in either half: the real connection counts.
        (PROXIED, 0x12, IPV4, None),
        (PROXIED, 0x22, &six, None),
        (PROXIED, 0x31, &[b'/'; 216], None),
        (PROXIED, 0x32, &[b'/'; 216], None),
        (PROXIED, 0x00, b"", None),
        (PROXIED, 0x00, b"\xff\xff\xff", None),
        (PROXIED, 0x10, b"", None),
        (PROXIED, 0x01, b"", None),
        // The block of LOCAL is skipped, whatever it is.
        (LOCAL, 0x00, b"", None),
        (LOCAL, TCP_IPV4, b"\x01", None),
        (LOCAL, 0xff, IPV4, None),
    ];
    for (command, family, block, expected) in table {
        assert_eq!(read(&binary(command, family, block)), Ok(expected), "{family:#x} {block:?}");
    }
}

#[test]
fn malformed_binary_headers_are_refused() {
    let with = |extra: &[u8]| [IPV4, extra].concat();
    let table: [(u8, u8, Vec<u8>, HeaderError); 15] = [
        (0x11, TCP_IPV4, with(b""), HeaderError::Command(0x11)),
        (0x22, TCP_IPV4, with(b""), HeaderError::Command(0x22)),
        (0x30, TCP_IPV4, with(b""), HeaderError::Command(0x30)),
        (PROXIED, 0x13, with(b""), HeaderError::Family(0x13)),
        (PROXIED, 0x03, with(b""), HeaderError::Family(0x03)),
        (PROXIED, 0x41, with(b""), HeaderError::Family(0x41)),
        (PROXIED, TCP_IPV4, IPV4[..11].to_vec(), HeaderError::TooShort),
        (PROXIED, TCP_IPV4, Vec::new(), HeaderError::TooShort),
        (PROXIED, TCP_IPV6, with(b""), HeaderError::TooShort),
        (PROXIED, 0x31, vec![0; 215], HeaderError::TooShort),
        (PROXIED, TCP_IPV4, with(b"\x04\0"), HeaderError::TooShort),
        (PROXIED, TCP_IPV4, with(b"\x04\0\x01"), HeaderError::TooShort),
        (PROXIED, TCP_IPV4, with(b"\x03\0\x03abc"), HeaderError::Checksum),
        (PROXIED, TCP_IPV4, with(b"\x03\0\x04abcd"), HeaderError::Checksum),
        (PROXIED, TCP_IPV4, vec![0; PROXY_PROTOCOL_LEN_MAX - 15], HeaderError::TooLong(4097)),
    ];
    for (command, family, block, error) in table {
        assert_eq!(read(&binary(command, family, &block)), Err(error), "{family:#x} {block:?}");
    }
    let padding = [IPV4, b"\x04\x0f\xe1", &[0; PROXY_PROTOCOL_LEN_MAX - 16 - 12 - 3]].concat();
    assert!(read(&binary(PROXIED, TCP_IPV4, &padding)).is_ok(), "the longest is taken");
    assert_eq!(read(b"\r\n\r\n\0\r\nQUIX"), Err(HeaderError::Missing));
}

#[test]
fn a_checksum_is_over_everything_but_itself() {
    // RFC 3720 appendix B.4: 32 bytes of zeroes, of ones, and rising.
    assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
    assert_eq!(crc32c([0xff; 32].into_iter()), 0x62a8_ab43);
    assert_eq!(crc32c(0..32), 0x46dd_794e);
    for behind in [&b""[..], b"\x04\0\x03abc"] {
        let block = [IPV4, b"\x04\0\x01x", b"\x03\0\x04\0\0\0\0", behind].concat();
        let mut header = binary(PROXIED, TCP_IPV4, &block);
        let at = FIXED_LEN + IPV4.len() + 4 + 3;
        let sum = crc32c(header.iter().copied()).to_be_bytes();
        header[at..at + 4].copy_from_slice(&sum);
        assert_eq!(read(&header), Ok(ends("192.0.2.1:56324", "198.51.100.2:443")));
        for bit in [8 * FIXED_LEN, 8 * (FIXED_LEN + 11), 8 * at, 8 * at + 31] {
            let mut damaged = header.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged), Err(HeaderError::Checksum), "bit {bit}");
        }
    }
}

#[test]
fn headers_are_written() {
    let mut out = Vec::new();
    let mut written = |version, ends| {
        out.clear();
        write(version, ends, &mut out);
        out.clone()
    };
    let four = ends("[::ffff:192.0.2.1]:56324", "198.51.100.2:443");
    let mixed = ends("192.0.2.1:1", "[::1]:2");
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
    assert_eq!(written(Version::V1, four), line);
    assert_eq!(written(Version::V1, mixed), b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n");
    assert_eq!(written(Version::V1, None), b"PROXY UNKNOWN\r\n");
    assert_eq!(written(Version::V2, four), binary(PROXIED, TCP_IPV4, IPV4));
    assert_eq!(written(Version::V2, None), binary(LOCAL, 0, b""));
    assert_eq!(parse(&written(Version::V2, mixed)), Ok(Parsed::Whole { used: 52, ends: mixed }));
}

fn any_socket() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(
        version in prop_oneof![Just(Version::V1), Just(Version::V2)],
        source in any_socket(),
        destination in any_socket(),
    ) {
        let ends = Ends::new(
            (source.ip(), source.port()),
            (destination.ip(), destination.port()),
        );
        let mut out = Vec::new();
        write(version, Some(ends), &mut out);
        prop_assert_eq!(read(&out), Ok(Some(ends)));
    }

    #[test]
    fn nobody_waits_for_more_than_the_longest_header(
        start in prop_oneof![Just(LINE_START), Just(SIGNATURE), Just(&b"\r\n"[..])],
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        damage in proptest::option::of((any::<Index>(), any::<u8>())),
        len in 0..PROXY_PROTOCOL_LEN_MAX,
    ) {
        let mut input = [start, &bytes].concat();
        if let Some((at, byte)) = damage {
            let at = at.index(input.len());
            input[at] = byte;
        }
        let _ = read_any(&input);
        input.resize(len.max(input.len()), b'x');
        input.resize(PROXY_PROTOCOL_LEN_MAX, 0);
        prop_assert_ne!(parse(&input), Ok(Parsed::NeedMore));
    }
}

/// Reads in any pieces what may end too early.
fn read_any(input: &[u8]) -> Result<Parsed, HeaderError> {
    let whole = parse(input);
    for len in 0..input.len() {
        let part = parse(&input[..len]);
        assert!(part == Ok(Parsed::NeedMore) || part == whole, "{len}: {part:?}, {whole:?}");
    }
    whole
}
