//! The threads of the desk: one takes the accounts' notices, since whoever revokes something waits
//! for what comes of them; one asks what everybody has moved.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};

use crate::accounts::service::Notice;
use crate::dataplane::messages::Receipt;
use crate::handshake::keys::PublicKey;
use crate::limits::{RETURN_WITHIN, USAGE_TAKE_EVERY};
use crate::sys::clock;
use crate::telemetry::counters::Carried;

use super::{Desk, Inner};

/// The running threads. They end when this is dropped.
pub(in super::super) struct Rounds {
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Rounds {
    /// Starts them.
    pub(in super::super) fn start(desk: &Desk) -> io::Result<Self> {
        let (sender, stop) = bounded(0);
        let notices = desk.inner.accounts.subscribe();
        let (inner, is_over) = (Arc::clone(&desk.inner), stop.clone());
        let take_notices = move || take_notices(&inner, &notices, &is_over);
        let inner = Arc::clone(&desk.inner);
        let take_usage = move || take_usage(&inner, &stop);
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(work)
        };
        let threads =
            vec![start("notices", Box::new(take_notices))?, start("usage", Box::new(take_usage))?];
        Ok(Self { stop: Some(sender), threads })
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A panic has been told.
            let _ = thread.join();
        }
    }
}

fn take_notices(inner: &Inner, notices: &Receiver<Notice>, stop: &Receiver<()>) {
    let looks = tick(RETURN_WITHIN);
    loop {
        select! {
            recv(notices) -> notice => match notice {
                Ok(notice) => inner.heed(notice),
                Err(_) => return,
            },
            recv(looks) -> _ => {
                let mut register = inner.register();
                register.forget(clock::now());
                for device in register.take_lost(clock::now()) {
                    inner.control.dismiss(device, Receipt::new(()));
                }
            }
            recv(stop) -> _ => return,
        }
    }
}

fn take_usage(inner: &Arc<Inner>, stop: &Receiver<()>) {
    let ticks = tick(USAGE_TAKE_EVERY);
    loop {
        select! {
            recv(ticks) -> _ => {
                let (sender, taken) = bounded(1);
                inner.control.order(move |engine, _| drop(sender.send(engine.take_usage())));
                // Without an answer the control thread has ended, and has told the rest itself.
                if let Ok(usage) = taken.recv() {
                    inner.add_usage(usage);
                }
            }
            recv(stop) -> _ => return,
        }
    }
}

impl Inner {
    pub(super) fn heed(&self, notice: Notice) {
        match notice {
            Notice::SessionEnded { session, device_key, end, done } => {
                self.move_out(session, device_key, end, done);
            }
            Notice::PolicyChanged { session, device_key, bounds, acl, done } => {
                let mut register = self.register();
                if !register.residents.is_here(session) {
                    return register.change_early(session, (bounds, acl), clock::now());
                }
                if register.residents.session_of(&device_key) != Some(session) {
                    return;
                }
                let Some(user) = register.residents.user_of(&device_key).cloned() else { return };
                let policies = &register.policies;
                let policy = policies.compile(clock::now(), &user, &bounds, &acl, self.defaults);
                self.control.order(move |engine, _| {
                    engine.set_policy(&device_key, Some(policy));
                    engine.acknowledge(Receipt::new(done));
                });
            }
            // Those are the gateway's.
            Notice::PassEnded { .. } | Notice::PassChanged { .. } => {}
        }
    }

    /// Tells the accounts what devices have moved.
    pub(super) fn add_usage(&self, usage: Vec<(PublicKey, Carried)>) {
        for (device, carried) in usage {
            let session = self.register().counted_session(&device);
            if let Some(session) = session {
                self.accounts.add_usage(session, carried.sent_bytes, carried.received_bytes);
            }
        }
    }
}
