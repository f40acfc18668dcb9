//! `corelane acl`.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::str::FromStr;

use clap::Subcommand;

use crate::accounts::names::Name;
use crate::accounts::operations::{Operation, Outcome};
use crate::cli::CliError;
use crate::cli::accounts::{CommonArgs, strange};
use crate::exit::ExitCode;
use crate::policy::acl::Protocol;

#[derive(Subcommand, Debug)]
pub(crate) enum AclCommand {
    /// Say whether a user may reach something, and which rule decides
    Explain {
        /// Whose rules
        #[arg(long, value_name = "NAME")]
        user: Name,
        /// What is to be reached, such as `10.0.0.5:443/tcp`, `[fd00::1]:53/udp` or `10.0.0.5/icmp`
        #[arg(long, value_name = "HOST:PORT/PROTO")]
        dst: FarEnd,
        #[command(flatten)]
        common: CommonArgs,
    },
}

/// What is to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FarEnd {
    host: String,
    port: Option<u16>,
    protocol: Protocol,
}

impl FromStr for FarEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            "expected HOST:PORT/tcp, HOST:PORT/udp or HOST/icmp, such as [fd00::1]:443/tcp"
                .to_owned()
        })
    }
}

fn parse(text: &str) -> Option<FarEnd> {
    let (place, protocol) = text.rsplit_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp,
        _ => return None,
    };
    let (host, port) = match protocol {
        Protocol::Icmp => (place, None),
        Protocol::Tcp | Protocol::Udp => {
            let (host, port) = place.rsplit_once(':')?;
            (host, Some(port.parse().ok().filter(|_| !port.starts_with('+'))?))
        }
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bracketed.unwrap_or(host);
    (!host.is_empty()).then(|| FarEnd { host: host.to_owned(), port, protocol })
}

impl FarEnd {
    /// The address, as this machine resolves the name if it is one.
    fn address(&self) -> Result<IpAddr, CliError> {
        if let Ok(address) = self.host.parse() {
            return Ok(address);
        }
        let resolved = (self.host.as_str(), 0).to_socket_addrs();
        let first = resolved.map(|mut found| found.next().map(|address| address.ip()));
        match first {
            Ok(Some(address)) => Ok(address),
            Ok(None) => Err(self.unknown("it has no address")),
            Err(error) => Err(self.unknown(&error.to_string())),
        }
    }

    fn unknown(&self, why: &str) -> CliError {
        CliError::new(ExitCode::NotFound, format_args!("cannot find {}: {why}", self.host))
    }
}

pub(crate) fn run(command: AclCommand) -> Result<(), CliError> {
    let AclCommand::Explain { user, dst, common } = command;
    let destination = dst.address()?;
    let (port, protocol) = (dst.port, dst.protocol);
    let operation = Operation::AclExplain { user, destination, port, protocol };
    common.run(operation, |outcome| match outcome {
        Outcome::Explanation(answer) => format!("{destination}: {}\n", answer.reason),
        other => strange(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_ends_truth_table() {
        let read =
            |text: &str| parse(text).map(|far_end| (far_end.host, far_end.port, far_end.protocol));
        let row = |host: &str, port, protocol| Some((host.to_owned(), port, protocol));
        assert_eq!(read("10.0.0.5:443/tcp"), row("10.0.0.5", Some(443), Protocol::Tcp));
        assert_eq!(read("[fd00::1]:53/udp"), row("fd00::1", Some(53), Protocol::Udp));
        assert_eq!(read("fd00::1/icmp"), row("fd00::1", None, Protocol::Icmp));
        assert_eq!(
            read("db.example.org:5432/tcp"),
            row("db.example.org", Some(5432), Protocol::Tcp)
        );
        for text in ["", "/tcp", "a/tcp", "a:b/tcp", ":1/tcp", "a:+1/tcp", "a:1", "a:1/sctp"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
