//! The kill switch of a client, from the first moment of its daemon to the last.

use crate::config::UpConfig;
use crate::daemon::DaemonError;
use crate::host::firewall::kill_switch::{self, Openings};
use crate::host::link::LinkError;
use crate::host::netlink::FirewallMonitor;

/// The kill switch as the configuration wants it, there or not. However the daemon ends, it stays,
/// unless it is opened; then the log tells how that is done by hand.
pub(super) struct KillSwitch(Option<kill_switch::KillSwitch>);

impl KillSwitch {
    /// Shuts the host, before anything else is done; or opens it, where an earlier run has left it
    /// shut and the configuration does not ask for that any more.
    pub(super) fn set(config: &UpConfig) -> Result<Self, DaemonError> {
        let tun = &config.tun.name;
        if !config.kill_switch {
            let opened = kill_switch::KillSwitch::take_away(Some(tun));
            match opened {
                Ok(tables) if tables.is_empty() => {}
                Ok(_) => log::info!("an earlier run left a kill switch, which is not wanted now"),
                Err(error) => log::warn!("a kill switch of an earlier run may be left: {error}"),
            }
            return Ok(Self(None));
        }
        let openings = Openings { mark: config.mark, allow: &config.kill_switch_allow };
        let switch = kill_switch::KillSwitch::install(tun, openings)?;
        log::info!("the kill switch is on: nothing leaves this host but through {tun}");
        Ok(Self(Some(switch)))
    }

    /// Hears when another program opens it.
    pub(super) fn monitor(&self) -> Result<Option<FirewallMonitor>, DaemonError> {
        let Some(switch) = &self.0 else { return Ok(None) };
        Ok(Some(FirewallMonitor::open(switch.tables()).map_err(LinkError::from)?))
    }

    /// Shuts the host again if another program has opened it. Returns how much was missing.
    pub(super) fn restore(&mut self) -> Result<usize, String> {
        let restored = self.0.as_mut().map_or(Ok(0), kill_switch::KillSwitch::restore);
        restored.map_err(|error| error.to_string())
    }

    /// Opens the host: the tunnel was ended by somebody who wanted that.
    pub(super) fn open(&mut self) {
        if let Some(switch) = &self.0 {
            match switch.remove() {
                Ok(()) => self.0 = None,
                Err(error) => log::error!("the kill switch cannot be taken away: {error}"),
            }
        }
    }
}

impl Drop for KillSwitch {
    fn drop(&mut self) {
        if self.0.is_some() {
            log::warn!(
                "the kill switch stays and keeps this host shut until the tunnel has run again and \
                 is stopped, or until `corelane kill-switch off`"
            );
        }
    }
}
