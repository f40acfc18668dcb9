//! Questions to a name server and its answers (RFC 1035 section 4), as far as finding the address
//! of a host takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::DNS_NAME_LEN_MAX;

/// Bytes of the header: identifier, flags and four counts.
const HEADER_LEN: usize = 12;
/// The flag of an answer, among those of the header.
const FLAG_RESPONSE: u16 = 0x8000;
/// The flag of a question whose answer may be asked for elsewhere.
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
/// Where the header has the outcome, of which 0 is success.
const MASK_RESPONSE_CODE: u16 = 0x000f;
/// There is no such name.
const NO_SUCH_NAME: u16 = 3;
const CLASS_INTERNET: u16 = 1;
/// Bytes of one label at most (RFC 1035 section 2.3.4).
const LABEL_LEN_MAX: usize = 63;
/// The first two bits of what points elsewhere instead of a label (section 4.1.4).
const POINTER: u8 = 0xc0;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses (RFC 3596).
    Aaaa,
}

impl RecordType {
    fn code(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }

    fn address(self, data: &[u8]) -> Option<IpAddr> {
        match self {
            Self::A => <[u8; 4]>::try_from(data).ok().map(|it| Ipv4Addr::from(it).into()),
            Self::Aaaa => <[u8; 16]>::try_from(data).ok().map(|it| Ipv6Addr::from(it).into()),
        }
    }
}

/// The question for the addresses of `name`; `None` if that is no name of a host.
pub(super) fn question(id: u16, name: &str, wanted: RecordType) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > DNS_NAME_LEN_MAX {
        return None;
    }
    let mut message = Vec::with_capacity(HEADER_LEN + name.len() + 6);
    for field in [id, FLAG_RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_LEN_MAX || !label.is_ascii() {
            return None;
        }
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(wanted.code().to_be_bytes());
    message.extend(CLASS_INTERNET.to_be_bytes());
    Some(message)
}

/// What a name server says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// These are the addresses, or none: there is no such name, or it has none of this kind.
    Addresses(Vec<IpAddr>),
    /// It cannot tell, for a reason of this number (RFC 1035 section 4.1.1, `RCODE`).
    Failure(u8),
}

/// What `answer` says to `question`; `None` if it is not an answer to it, or makes no sense. A
/// server that knows aliases (`CNAME`) sends the addresses along, which is why the names of records
/// do not matter.
pub(super) fn read(question: &[u8], answer: &[u8], wanted: RecordType) -> Option<Answer> {
    let asked = question.get(HEADER_LEN..)?;
    let repeated = answer.get(HEADER_LEN..HEADER_LEN + asked.len())?;
    let flags = field(answer, 2)?;
    let is_answer = answer.get(..2) == question.get(..2) && flags & FLAG_RESPONSE != 0;
    // Servers may repeat a name in other letters (RFC 4343).
    if !is_answer || field(answer, 4)? != 1 || !repeated.eq_ignore_ascii_case(asked) {
        return None;
    }
    match flags & MASK_RESPONSE_CODE {
        0 | NO_SUCH_NAME => {}
        code => return Some(Answer::Failure(code as u8)),
    }
    let mut rest = answer.get(HEADER_LEN + asked.len()..)?;
    let mut found = Vec::new();
    for _ in 0..field(answer, 6)? {
        let record = skip_name(rest)?;
        let (kind, class) = (field(record, 0)?, field(record, 2)?);
        let len = usize::from(field(record, 8)?);
        let data = record.get(10..10 + len)?;
        if kind == wanted.code() && class == CLASS_INTERNET {
            found.extend(wanted.address(data));
        }
        rest = record.get(10 + len..)?;
    }
    Some(Answer::Addresses(found))
}

/// What follows a name.
fn skip_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&len, rest) = bytes.split_first()?;
        match len {
            0 => return Some(rest),
            _ if len & POINTER == POINTER => return rest.get(1..),
            _ if len & POINTER != 0 => return None,
            _ => bytes = rest.get(usize::from(len)..)?,
        }
    }
}

/// Two bytes of a message, as a number.
fn field(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u16 = 0x1234;

    fn addresses(question: &[u8], answer: &[u8], wanted: RecordType) -> Option<Vec<IpAddr>> {
        match read(question, answer, wanted)? {
            Answer::Addresses(found) => Some(found),
            Answer::Failure(code) => panic!("{code}"),
        }
    }

    fn asked(wanted: RecordType) -> Vec<u8> {
        question(ID, "vpn.example.org", wanted).unwrap()
    }

    /// An answer with these records, each of a type and data, whose names are pointers.
    fn answer(question: &[u8], records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut answer = question.to_vec();
        answer[2..4].copy_from_slice(&0x8180_u16.to_be_bytes());
        answer[7] = records.len() as u8;
        for (kind, data) in records {
            answer.extend([POINTER, HEADER_LEN as u8]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 60]);
            answer.extend((data.len() as u16).to_be_bytes());
            answer.extend_from_slice(data);
        }
        answer
    }

    #[test]
    fn a_question_is_laid_out_as_the_rfc_has_it() {
        let expected = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03vpn\x07example\x03org\0\0\x01\0\x01";
        assert_eq!(asked(RecordType::A), expected);
        assert_eq!(question(ID, "vpn.example.org.", RecordType::A).unwrap(), expected);
        let long = ["a"; 127].join(".");
        assert!(question(ID, &long, RecordType::Aaaa).is_some());
        for name in ["", ".", "a..b", "\u{e9}.org", &"a".repeat(64), &format!("{long}.aa")] {
            assert_eq!(question(ID, name, RecordType::A), None, "{name}");
        }
    }

    #[test]
    fn addresses_are_found_behind_aliases_and_of_the_wanted_type_only() {
        let question = asked(RecordType::A);
        let alias: &[u8] = b"\x05other\xc0\x10";
        let records = [(5, alias), (1, &[192, 0, 2, 1]), (28, &[0; 16]), (1, &[192, 0, 2, 2])];
        let answer = answer(&question, &records);
        let found = addresses(&question, &answer, RecordType::A).unwrap();
        assert_eq!(found, ["192.0.2.1", "192.0.2.2"].map(|it| it.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let question = asked(RecordType::Aaaa);
        let good = answer(&question, &[(28, &[0x20; 16])]);
        assert_eq!(addresses(&question, &good, RecordType::Aaaa).unwrap().len(), 1);
        let upper = [&good[..13], b"VPN", &good[16..]].concat();
        assert_eq!(addresses(&question, &upper, RecordType::Aaaa).unwrap().len(), 1);
        for (at, value) in [(0, 0), (2, 0x01), (5, 2), (14, b'x'), (30, 1)] {
            let mut other = good.clone();
            other[at] = value;
            assert_eq!(addresses(&question, &other, RecordType::Aaaa), None, "byte {at}");
        }
        for len in 0..good.len() {
            assert_eq!(addresses(&question, &good[..len], RecordType::Aaaa), None, "{len}");
        }
        let failed = |code: u8| {
            let mut failed = answer(&question, &[]);
            failed[3] |= code;
            read(&question, &failed, RecordType::Aaaa)
        };
        assert_eq!(failed(2), Some(Answer::Failure(2)));
        assert_eq!(failed(3), Some(Answer::Addresses(Vec::new())), "no such name");
        let wrong_size = answer(&question, &[(28, &[1; 4])]);
        let found = addresses(&question, &wrong_size, RecordType::Aaaa).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
