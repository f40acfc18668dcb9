//! Finding a client's server by name, at start and again when it does not answer.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;

use crossbeam_channel::{Receiver, TryRecvError};

use crate::config::{HostPort, UpConfig};
use crate::daemon::DaemonError;
use crate::host::netlink::Netlink;
use crate::host::privileges;
use crate::host::resolver::OuterLookup;
use crate::host::routes::Leftovers;

/// Finds the server at the start. A full tunnel that was killed keeps its host shut until it runs
/// again, from name servers as from anything else; then the tunnel with the device `tun` goes to
/// where it had its server. So does a kill switch, which lets the daemon itself ask.
pub(super) fn find_server(config: &UpConfig, server: &HostPort) -> Result<SocketAddr, DaemonError> {
    let tun = &config.tun.name;
    let outside = outer_lookup(config.kill_switch.then_some(config.mark));
    let source = match resolve(server, outside.as_ref()) {
        Ok(address) => return Ok(address),
        Err(error) => error,
    };
    let leftovers = find_leftovers()?;
    if let Some(address) = leftovers.server_of(tun) {
        let address = SocketAddr::new(address, server.port());
        log::warn!(
            "no address found for {server} ({source}), perhaps because this tunnel was killed and \
             keeps its host shut; going on with {address}, where its server was"
        );
        return Ok(address);
    }
    let server = server.to_string();
    Err(match leftovers.shut_anything() {
        true => DaemonError::ResolveShut { server, source },
        false => DaemonError::Resolve { server, source },
    })
}

/// What tunnels that were killed have left on this host.
pub(super) fn find_leftovers() -> Result<Leftovers, DaemonError> {
    let found = Netlink::open().and_then(|mut netlink| Leftovers::find(&mut netlink));
    found.map_err(DaemonError::Leftovers)
}

/// Sockets to ask name servers by, past a kill switch that lets out what has a mark.
pub(super) fn outer_lookup(mark: Option<u32>) -> Option<OuterLookup> {
    let opened = OuterLookup::open(mark?);
    opened.inspect_err(|error| log::debug!("no name server can be asked past it: {error}")).ok()
}

fn resolve(server: &HostPort, outside: Option<&OuterLookup>) -> io::Result<SocketAddr> {
    let found = resolve_all(server, outside)?.into_iter().next();
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))
}

/// Asks the resolver and waits for its answer, and where it has none, the name servers outside.
pub(super) fn resolve_all(
    server: &HostPort,
    outside: Option<&OuterLookup>,
) -> io::Result<Vec<SocketAddr>> {
    let resolved = (server.host(), server.port()).to_socket_addrs();
    let (Err(error), Some(outside)) = (&resolved, outside) else { return Ok(resolved?.collect()) };
    log::debug!("{server} is looked up outside of the tunnel: {error}");
    let found = outside.look_up(server.host(), rand::random())?;
    Ok(found.into_iter().map(|address| (address, server.port()).into()).collect())
}

/// Asks the resolver in the background, one question at a time.
pub(super) struct Resolver {
    server: HostPort,
    /// What a kill switch lets out, if there is one.
    mark: Option<u32>,
    question: Option<Receiver<SocketAddr>>,
}

impl Resolver {
    pub(super) fn new(config: &UpConfig, server: HostPort) -> Self {
        let mark = config.kill_switch.then_some(config.mark);
        Self { server, mark, question: None }
    }

    /// The answer to the question before, if there is one by now. Asks again unless a question is
    /// still open.
    pub(super) fn poll(&mut self) -> Option<SocketAddr> {
        let answer = match self.question.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return None,
            Some(Ok(address)) => Some(address),
            Some(Err(TryRecvError::Disconnected)) | None => None,
        };
        self.question = self.ask();
        answer
    }

    /// A thread that waits for the resolver and ends with its answer.
    fn ask(&self) -> Option<Receiver<SocketAddr>> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let (server, mark) = (self.server.clone(), self.mark);
        let question = move || {
            let outside = outer_lookup(mark);
            if let Err(error) = privileges::drop_all_on_this_thread() {
                log::debug!("the resolver keeps its capabilities: {error}");
            }
            if let Ok(address) = resolve(&server, outside.as_ref()) {
                // Nobody waits any more if the daemon is stopping.
                let _ = sender.send(address);
            }
        };
        let thread = thread::Builder::new().name("resolver".to_owned()).spawn(question);
        thread.is_ok().then_some(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_resolve_to_themselves() {
        for text in ["192.0.2.1:4500", "[2001:db8::1]:4500"] {
            let server: HostPort = text.parse().unwrap();
            assert_eq!(resolve(&server, None).unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_answer_arrives_with_a_later_poll() {
        let server = "192.0.2.1:4500".parse().unwrap();
        let mut resolver = Resolver { server, mark: None, question: None };
        assert_eq!(resolver.poll(), None);
        let answer = resolver.question.as_ref().unwrap().recv().unwrap();
        assert_eq!(answer.to_string(), "192.0.2.1:4500");
    }
}
