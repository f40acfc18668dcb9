//! Tries upstream proxies on the gateway's own account, on a thread of its own.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::limits::{PROXY_CHECK_LOOK_EVERY, PROXY_CHECK_WITHIN, PROXY_CHECKS_AT_ONCE};
use crate::sys::clock;

use super::group::Group;
use super::probe::probe;

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
    let Some(server) = group.server(index) else { return };
    let target = group.settings.check.as_ref();
    match probe(group, server, target, clock::now() + PROXY_CHECK_WITHIN) {
        Ok(()) => group.be_well(index),
        Err(trouble) => group.fail(index, clock::now(), &trouble),
    }
}
