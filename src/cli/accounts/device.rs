//! `corelane device`.

use std::net::IpAddr;

use clap::Subcommand;

use crate::accounts::names::Name;
use crate::accounts::operations::{DeviceView, Operation, Outcome};
use crate::cli::CliError;
use crate::cli::accounts::{CommonArgs, done_text, join, name_or_gone, strange, table};

#[derive(Subcommand, Debug)]
pub(crate) enum DeviceCommand {
    /// List devices, of one user or of all
    Ls {
        /// Whose
        user: Option<Name>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Remove a device: end its session, and make its token worthless
    Rm {
        /// Whose
        user: Name,
        /// What it is called
        device: Name,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) fn run(command: DeviceCommand) -> Result<(), CliError> {
    match command {
        DeviceCommand::Ls { user, common } => {
            common.run(Operation::DeviceList { user }, devices_text)
        }
        DeviceCommand::Rm { user, device, common } => {
            let what = format!("{device} of {user} is removed");
            let operation = Operation::DeviceRemove { user, device };
            common.run(operation, |outcome| done_text(&what, outcome))
        }
    }
}

fn devices_text(outcome: &Outcome) -> String {
    let Outcome::Devices(devices) = outcome else { return strange(outcome) };
    let row = |device: &DeviceView| {
        let addresses = device.addresses.iter().flat_map(|(_, addresses)| addresses);
        [
            name_or_gone(device.user.as_ref()),
            device.name.to_string(),
            if device.online { "online" } else { "offline" }.to_owned(),
            join(addresses.collect::<Vec<&IpAddr>>()),
            device.last_login.clone(),
            device.public_key.to_string(),
        ]
    };
    let rows: Vec<_> = devices.iter().map(row).collect();
    table::render(["USER", "DEVICE", "STATE", "ADDRESSES", "LAST LOGIN", "KEY"], &rows)
}
