//! `corelane kill-switch`: what a client that ended badly has left shut, and how to open it.

use std::thread;

use clap::{Args, Subcommand};

use crate::cli::{CliError, output};
use crate::config::{InterfaceName, parse_argument};
use crate::exit::ExitCode;
use crate::host::firewall::FirewallError;
use crate::host::firewall::kill_switch::KillSwitch;
use crate::limits::HOST_LOOK_PAUSE;

#[derive(Subcommand, Debug)]
pub(crate) enum KillSwitchCommand {
    /// Open a host that a client which was killed or failed has left shut
    Off(OffArgs),
    /// Show the kill switches of this host
    Status,
}

#[derive(Args, Debug)]
pub(crate) struct OffArgs {
    /// TUN device of the client [default: every client's kill switch]
    #[arg(long, value_name = "NAME", value_parser = parse_argument::<InterfaceName>)]
    tun: Option<InterfaceName>,
}

impl From<FirewallError> for CliError {
    fn from(error: FirewallError) -> Self {
        match error {
            FirewallError::Forbidden => Self::new(ExitCode::Denied, error),
            error => Self::failure(error),
        }
    }
}

pub(super) fn run(command: KillSwitchCommand) -> Result<(), CliError> {
    match command {
        KillSwitchCommand::Off(args) => off(&args),
        KillSwitchCommand::Status => status(),
    }
}

fn off(args: &OffArgs) -> Result<(), CliError> {
    let tun = args.tun.as_ref().map(ToString::to_string);
    let removed = KillSwitch::take_away(tun.as_deref())?;
    if removed.is_empty() {
        return output::print("no kill switch is on\n");
    }
    // A daemon that runs hears of it and shuts the host again.
    thread::sleep(2 * HOST_LOOK_PAUSE);
    let mut back = KillSwitch::present()?;
    back.retain(|name| removed.contains(name));
    if !back.is_empty() {
        return Err(CliError::failure(format!(
            "a client runs that wants this host shut, and has put back {}: stop it first, by \
             `corelane down`, which opens the host as well",
            back.join(", ")
        )));
    }
    output::print(&format!("open: removed {}\n", removed.join(", ")))
}

fn status() -> Result<(), CliError> {
    let present = KillSwitch::present()?;
    let lines = present.iter().map(|name| {
        format!("shut by the table {name} of nftables (`nft list table inet {name}` shows it)\n")
    });
    let text: String = lines.collect();
    output::print(if text.is_empty() { "no kill switch is on\n" } else { &text })
}
