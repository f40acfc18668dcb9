//! Telling systemd where the daemon stands; without systemd nothing happens.

use sd_notify::NotifyState;

/// The daemon is in service.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The daemon is in service, and this is what it is doing.
pub(super) fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The daemon is on its way out.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("systemd was not told: {error}");
    }
}
