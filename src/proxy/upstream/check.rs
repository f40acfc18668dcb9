//! Tries upstream proxies on the gateway's own account, on a thread of its own.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use zeroize::Zeroizing;

use crate::limits::{
    PROXY_CHECK_LOOK_EVERY, PROXY_CHECK_WITHIN, PROXY_CHECKS_AT_ONCE, PROXY_UPSTREAM_ANSWER_LEN_MAX,
};
use crate::proxy::target::Host;
use crate::sys::{clock, names};

use super::group::Group;
use super::handshake::Handshake;

/// Why a server is not well.
type Trouble = Box<dyn std::fmt::Display + Send>;

/// Tries the servers of the groups that `groups` lists, whenever they are due, until the sender
/// that it returns is dropped.
///
/// # Errors
/// The kernel gives no thread.
pub fn start(groups: impl Fn() -> Vec<Arc<Group>> + Send + 'static) -> io::Result<Sender<()>> {
    let (keeper, dropped) = bounded(0);
    let thread = thread::Builder::new().name("proxy-checks".to_owned());
    thread.spawn(move || run(&dropped, &groups))?;
    Ok(keeper)
}

fn run(dropped: &Receiver<()>, groups: &dyn Fn() -> Vec<Arc<Group>>) {
    while dropped.recv_timeout(PROXY_CHECK_LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let now = clock::now();
        let due: Vec<(Arc<Group>, usize)> = groups()
            .iter()
            .filter(|group| group.is_check_due(now))
            .flat_map(|group| (0..group.settings.servers.len()).map(|it| (Arc::clone(group), it)))
            .collect();
        for some in due.chunks(PROXY_CHECKS_AT_ONCE) {
            thread::scope(|scope| {
                for (group, index) in some {
                    scope.spawn(move || check(group, *index));
                }
            });
        }
    }
}

/// Tries one server, and notes what came of it.
fn check(group: &Group, index: usize) {
    match attempt(group, index, clock::now() + PROXY_CHECK_WITHIN) {
        Ok(()) => group.be_well(index),
        Err(trouble) => group.fail(index, clock::now(), &trouble),
    }
}

fn attempt(group: &Group, index: usize, until: Instant) -> Result<(), Trouble> {
    let Some(server) = group.server(index) else { return Ok(()) };
    let addresses: Vec<IpAddr> = match &server.target.host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => names::look_up(name.as_str()).map_err(|error| {
            Box::new(format!("its name cannot be looked up: {error:?}")) as Trouble
        })?,
    };
    let mut stream = connect(&addresses, server.target.port, until)?;
    let Some(target) = &group.settings.check else { return Ok(()) };
    let mut output = Zeroizing::new(Vec::new());
    let begun = Handshake::begin(server.scheme, target, group.credentials(), &mut output);
    let mut handshake = begun.map_err(|error| Box::new(error) as Trouble)?;
    let mut input = Vec::new();
    loop {
        let left = left(until)?;
        let mut exchange = || {
            stream.set_write_timeout(Some(left))?;
            stream.set_read_timeout(Some(left))?;
            stream.write_all(&output)?;
            let mut buffer = [0; PROXY_UPSTREAM_ANSWER_LEN_MAX / 4];
            let len = stream.read(&mut buffer)?;
            input.extend_from_slice(buffer.get(..len).unwrap_or_default());
            Ok(len)
        };
        if exchange().map_err(|error: io::Error| Box::new(error) as Trouble)? == 0 {
            return Err(Box::new("it has closed the connection instead of an answer"));
        }
        output.clear();
        match handshake.advance(&mut input, &mut output) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // The administrator has chosen what is asked for so that it can be reached.
            Err(error) => return Err(Box::new(format!("{target} by way of it: {error}"))),
        }
    }
}

fn connect(addresses: &[IpAddr], port: u16, until: Instant) -> Result<TcpStream, Trouble> {
    let mut trouble: Trouble = Box::new("its name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&SocketAddr::new(*address, port), left(until)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => trouble = Box::new(error),
        }
    }
    Err(trouble)
}

/// What is left of the time.
fn left(until: Instant) -> Result<Duration, Trouble> {
    let left = until.saturating_duration_since(clock::now());
    match left.is_zero() {
        true => Err(Box::new("it has not answered in time")),
        false => Ok(left),
    }
}
