//! Finding a host's address by the name servers that were there before the tunnel, with sockets
//! that carry its mark: where everything else is shut out or led into a tunnel that is not up, the
//! tunnel's own server can still be found.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::RESOLV_CONF;
use super::file::ResolvConf;
use super::message::{self, Answer, RecordType};
use crate::limits::{DNS_ANSWER_LEN_MAX, DNS_ANSWER_WITHIN, DNS_ATTEMPTS, RESOLV_CONF_SERVERS};
use crate::sys::clock;

/// Where systemd-resolved keeps the name servers that it asks itself.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
const PORT: u16 = 53;

/// Sockets that reach name servers outside of the tunnel.
#[derive(Debug)]
pub struct OuterLookup {
    ipv4: UdpSocket,
    /// Where the host has IPv6.
    ipv6: Option<UdpSocket>,
}

impl OuterLookup {
    /// Opens them with a mark, for which it takes `CAP_NET_ADMIN`; asking takes nothing.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn open(mark: u32) -> io::Result<Self> {
        let open = |domain: Domain, any: IpAddr| -> io::Result<UdpSocket> {
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_mark(mark)?;
            // A port of its own, that nobody can guess.
            socket.bind(&SocketAddr::new(any, 0).into())?;
            Ok(socket.into())
        };
        let ipv4 = open(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())?;
        Ok(Self { ipv4, ipv6: open(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()).ok() })
    }

    /// The addresses of `name`, IPv4 ones first, as name servers outside of any tunnel know them.
    /// `id` is random: an answer must have it.
    ///
    /// # Errors
    /// What went wrong with the last name server, or `NotFound`.
    pub fn look_up(&self, name: &str, id: u16) -> io::Result<Vec<IpAddr>> {
        self.ask_all(name, id, &outer_name_servers())
    }

    fn ask_all(&self, name: &str, id: u16, servers: &[SocketAddr]) -> io::Result<Vec<IpAddr>> {
        let none = "no name server outside of the tunnel is known";
        let mut failure = io::Error::new(io::ErrorKind::NotFound, none);
        for _ in 0..DNS_ATTEMPTS {
            for server in servers {
                match self.ask(name, id, *server) {
                    Ok(found) if found.is_empty() => {
                        let what = format!("the name server {server} knows no address");
                        return Err(io::Error::new(io::ErrorKind::NotFound, what));
                    }
                    Ok(found) => return Ok(found),
                    Err(error) => {
                        let what = format!("the name server {server}: {error}");
                        failure = io::Error::new(error.kind(), what);
                    }
                }
            }
        }
        Err(failure)
    }

    /// Asks one name server for addresses of both families.
    fn ask(&self, name: &str, id: u16, server: SocketAddr) -> io::Result<Vec<IpAddr>> {
        let socket = match server {
            SocketAddr::V4(_) => &self.ipv4,
            SocketAddr::V6(_) => self.ipv6.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?,
        };
        // So nobody else's datagrams are heard from here on.
        socket.connect(server)?;
        let mut found = Vec::new();
        for wanted in [RecordType::A, RecordType::Aaaa] {
            let question = message::question(id, name, wanted)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no name of a host"))?;
            socket.send(&question)?;
            found.extend(answer(socket, &question, wanted)?);
        }
        Ok(found)
    }
}

/// Waits for the answer to a question; what is none is passed over.
fn answer(socket: &UdpSocket, question: &[u8], wanted: RecordType) -> io::Result<Vec<IpAddr>> {
    let deadline = clock::now() + DNS_ANSWER_WITHIN;
    let mut buffer = [0; DNS_ANSWER_LEN_MAX];
    loop {
        let left = deadline.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        match message::read(question, buffer.get(..len).unwrap_or_default(), wanted) {
            Some(Answer::Addresses(found)) => return Ok(found),
            Some(Answer::Failure(code)) => {
                return Err(io::Error::other(format!("it failed with code {code}")));
            }
            None => {}
        }
    }
}

/// The name servers of the network that the host is on, without those on the host itself.
fn outer_name_servers() -> Vec<SocketAddr> {
    let own = ResolvConf::at(RESOLV_CONF).outside().unwrap_or_default();
    let own: Vec<_> = name_servers(&String::from_utf8_lossy(&own)).collect();
    let is_outside = |server: &IpAddr| !server.is_loopback();
    let upstream = match own.iter().all(|server| !is_outside(server)) {
        true => std::fs::read_to_string(Path::new(RESOLVED_UPSTREAM)).unwrap_or_default(),
        false => String::new(),
    };
    let servers = own.into_iter().chain(name_servers(&upstream)).filter(is_outside);
    servers.take(RESOLV_CONF_SERVERS).map(|server| (server, PORT).into()).collect()
}

/// The name servers that a text in the form of resolv.conf(5) names.
pub(super) fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let keyword = words.next()?;
        words.next().filter(|_| keyword == "nameserver")?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn name_servers_are_found_among_other_lines() {
        let text = "# nameserver 192.0.2.1\nsearch lan\nnameserver 192.0.2.2\n nameserver  ::1 \n\
                    nameserver\nnameserver nonsense\noptions edns0\n";
        let found: Vec<_> = name_servers(text).map(|it| it.to_string()).collect();
        assert_eq!(found, ["192.0.2.2", "::1"]);
    }

    /// A name server that does with each question what `answers` says.
    fn name_server(
        answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    ) -> (SocketAddr, mpsc::Receiver<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (asked, questions) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                for answer in answers(&buffer[..len]) {
                    socket.send_to(&answer, from).unwrap();
                }
                if asked.send(()).is_err() {
                    return;
                }
            }
        });
        (address, questions)
    }

    /// An answer with one IPv4 address, or none if something else was asked for.
    fn good(question: &[u8]) -> Vec<u8> {
        let is_ipv4 = question[question.len() - 3] == 1;
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        answer[7] = u8::from(is_ipv4);
        if is_ipv4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, 0, 2, 7]);
        }
        answer
    }

    #[test]
    fn an_answer_is_found_among_what_is_none_and_the_next_one_asked_where_one_fails() {
        let (failing, _failing) = name_server(|question| {
            let mut failed = good(question);
            failed[3] |= 2;
            vec![failed]
        });
        let (server, _asked) = name_server(|question| {
            let mut of_another = good(question);
            of_another[0] ^= 1;
            vec![b"junk".to_vec(), of_another, good(question)]
        });
        let lookup = OuterLookup::open(7).unwrap();
        let found = lookup.ask_all("vpn.example.org", 99, &[failing, server]).unwrap();
        assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert!(lookup.ask_all("no..name", 99, &[server]).is_err());
        assert!(lookup.ask_all("vpn.example.org", 99, &[]).is_err());
    }

    #[test]
    fn one_that_does_not_answer_is_not_waited_for_for_ever() {
        let (silent, asked) = name_server(|_| Vec::new());
        let error = OuterLookup::open(7).unwrap().ask_all("a.b", 1, &[silent]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(asked.try_iter().count(), DNS_ATTEMPTS as usize);
    }
}
