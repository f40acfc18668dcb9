//! What is measured: contenders, links, workloads and the figures that come out.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// Who carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// Nobody: the link between the hosts itself.
    Veth,
    /// The ceiling program.
    Ceiling,
    /// Corelane with one worker on each side.
    #[value(name = "corelane1")]
    #[serde(rename = "corelane1")]
    CorelaneOneWorker,
    /// Corelane with two workers on each side.
    #[value(name = "corelane2")]
    #[serde(rename = "corelane2")]
    CorelaneTwoWorkers,
    /// WireGuard in Go.
    #[value(name = "wireguard-go")]
    WireguardGo,
    /// WireGuard in Rust.
    Boringtun,
    /// OpenVPN with AES-256-GCM.
    Openvpn,
    /// Nebula with AES-256-GCM.
    Nebula,
    /// Quincy, over QUIC.
    Quincy,
}

impl Contender {
    /// Its name at the head of a column.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Veth => "plain veth",
            Self::Ceiling => "ceiling",
            Self::CorelaneOneWorker => "Corelane, 1 worker",
            Self::CorelaneTwoWorkers => "Corelane, 2 workers",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Openvpn => "OpenVPN",
            Self::Nebula => "Nebula",
            Self::Quincy => "Quincy",
        }
    }

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Ceiling => "ceiling",
            Self::CorelaneOneWorker => "corelane1",
            Self::CorelaneTwoWorkers => "corelane2",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Openvpn => "openvpn",
            Self::Nebula => "nebula",
            Self::Quincy => "quincy",
        }
    }
}

/// How the link between the hosts carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Links {
    /// Super-packets cross whole, as veth lets them.
    Whole,
    /// Every super-packet is cut to packets of the link's MTU, and the receiver aggregates.
    Cut,
}

impl Links {
    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Cut => "cut",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Whole => "Super-packets cross the link whole",
            Self::Cut => "Super-packets are cut to single packets on the link",
        }
    }
}

/// What a contender is put to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// One TCP stream from client to server.
    Tcp1Up,
    /// One TCP stream from server to client.
    Tcp1Down,
    /// Four TCP streams from client to server.
    Tcp4Up,
    /// Four TCP streams from server to client.
    Tcp4Down,
    /// Datagrams of 1300 bytes in trains, as fast as the sender can.
    UdpGso,
    /// Datagrams of 1300 bytes, as many as arrive.
    Udp1300,
    /// Datagrams of 64 bytes, as many as arrive.
    Udp64,
    /// Round trips with nothing else to do.
    RttIdle,
    /// The same, each begun when the one before it is over.
    RttChain,
    /// Round trips beside one TCP stream.
    RttLoaded,
}

impl Workload {
    pub(crate) const ALL: [Self; 10] = [
        Self::Tcp1Up,
        Self::Tcp1Down,
        Self::Tcp4Up,
        Self::Tcp4Down,
        Self::UdpGso,
        Self::Udp1300,
        Self::Udp64,
        Self::RttIdle,
        Self::RttChain,
        Self::RttLoaded,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp1Up => "tcp1-up",
            Self::Tcp1Down => "tcp1-down",
            Self::Tcp4Up => "tcp4-up",
            Self::Tcp4Down => "tcp4-down",
            Self::UdpGso => "udp-gso",
            Self::Udp1300 => "udp-1300",
            Self::Udp64 => "udp-64",
            Self::RttIdle => "rtt-idle",
            Self::RttChain => "rtt-chain",
            Self::RttLoaded => "rtt-loaded",
        }
    }

    /// Those whose name begins with one of `prefixes`, or all if there is none.
    pub(crate) fn select(prefixes: &[String]) -> Result<Vec<Self>, String> {
        let matches = |workload: &Self, prefix: &String| workload.name().starts_with(&**prefix);
        let unknown = prefixes.iter().find(|p| !Self::ALL.iter().any(|w| matches(w, p)));
        if let Some(prefix) = unknown {
            let names: Vec<_> = Self::ALL.iter().map(|workload| workload.name()).collect();
            return Err(format!("no workload begins with `{prefix}`: {}", names.join(", ")));
        }
        let selected = |workload: &Self| {
            prefixes.is_empty() || prefixes.iter().any(|prefix| matches(workload, prefix))
        };
        Ok(Self::ALL.into_iter().filter(selected).collect())
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A figure, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    Tcp1Up,
    Tcp1Down,
    Tcp4Up,
    Tcp4Down,
    Tcp1UpCpu,
    Tcp1DownCpu,
    Tcp4UpCpu,
    Tcp4DownCpu,
    UdpGso,
    UdpGsoReordered,
    Udp1300,
    Udp1300Strict,
    Udp1300Flat,
    Udp1300Reordered,
    Udp64,
    Udp64Strict,
    Udp64Flat,
    Udp64Reordered,
    RttIdle,
    RttIdleP99,
    RttChain,
    RttLoaded,
    RttLoadedP99,
    FirstPing,
    ServerMemory,
}

/// Figures that stand in one table, and what they have in common.
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) metrics: &'static [Metric],
}

impl Metric {
    /// All of them, in tables.
    pub(crate) const GROUPS: [Group; 5] = [
        Group {
            title: "TCP, Gbit/s",
            metrics: &[Self::Tcp1Up, Self::Tcp1Down, Self::Tcp4Up, Self::Tcp4Down],
        },
        Group {
            title: "CPU time of both tunnel processes, s/GB (less is better)",
            metrics: &[Self::Tcp1UpCpu, Self::Tcp1DownCpu, Self::Tcp4UpCpu, Self::Tcp4DownCpu],
        },
        Group {
            title: "UDP, 1300 B, Gbit/s",
            metrics: &[
                Self::UdpGso,
                Self::UdpGsoReordered,
                Self::Udp1300,
                Self::Udp1300Strict,
                Self::Udp1300Flat,
                Self::Udp1300Reordered,
            ],
        },
        Group {
            title: "UDP, 64 B, thousand datagrams/s",
            metrics: &[Self::Udp64, Self::Udp64Strict, Self::Udp64Flat, Self::Udp64Reordered],
        },
        Group {
            title: "Round trips (µs), start (ms) and memory (MiB): less is better",
            metrics: &[
                Self::RttIdle,
                Self::RttIdleP99,
                Self::RttChain,
                Self::RttLoaded,
                Self::RttLoadedP99,
                Self::FirstPing,
                Self::ServerMemory,
            ],
        },
    ];

    /// What it is called, and its unit.
    pub(crate) const fn title_and_unit(self) -> (&'static str, &'static str) {
        const CPU: &str = "CPU s/GB";
        const LATE: (&str, &str) = ("of these out of order", "datagrams");
        match self {
            Self::Tcp1Up => ("TCP 1 stream up", "Gbit/s"),
            Self::Tcp1Down => ("TCP 1 stream down", "Gbit/s"),
            Self::Tcp4Up => ("TCP 4 streams up", "Gbit/s"),
            Self::Tcp4Down => ("TCP 4 streams down", "Gbit/s"),
            Self::Tcp1UpCpu => ("CPU time, TCP 1 up", CPU),
            Self::Tcp1DownCpu => ("CPU time, TCP 1 down", CPU),
            Self::Tcp4UpCpu => ("CPU time, TCP 4 up", CPU),
            Self::Tcp4DownCpu => ("CPU time, TCP 4 down", CPU),
            Self::UdpGso => ("UDP 1300 B in trains of 40, flat out", "Gbit/s"),
            Self::Udp1300 => ("UDP 1300 B, at most 1 % lost", "Gbit/s"),
            Self::Udp1300Strict => ("UDP 1300 B, at most 0.5 % lost", "Gbit/s"),
            Self::Udp1300Flat => ("UDP 1300 B, flat out", "Gbit/s"),
            Self::UdpGsoReordered | Self::Udp1300Reordered | Self::Udp64Reordered => LATE,
            Self::Udp64 => ("UDP 64 B, at most 1 % lost", "kpps"),
            Self::Udp64Strict => ("UDP 64 B, at most 0.5 % lost", "kpps"),
            Self::Udp64Flat => ("UDP 64 B, flat out", "kpps"),
            Self::RttIdle => ("RTT idle, median", "µs"),
            Self::RttIdleP99 => ("RTT idle, 99 %", "µs"),
            Self::RttChain => ("RTT one after another, median", "µs"),
            Self::RttLoaded => ("RTT beside TCP 1 up, median", "µs"),
            Self::RttLoadedP99 => ("RTT beside TCP 1 up, 99 %", "µs"),
            Self::FirstPing => ("client's start to first ping", "ms"),
            Self::ServerMemory => ("server's memory, peak", "MiB"),
        }
    }

    /// Whether it is a figure of the tunnel's processes, which a plain link has none of.
    pub(crate) const fn needs_processes(self) -> bool {
        matches!(
            self,
            Self::Tcp1UpCpu
                | Self::Tcp1DownCpu
                | Self::Tcp4UpCpu
                | Self::Tcp4DownCpu
                | Self::FirstPing
                | Self::ServerMemory
        )
    }

    /// Whether its ratio to another contender means something: a count of accidents has none.
    pub(crate) const fn has_ratio(self) -> bool {
        !matches!(self, Self::UdpGsoReordered | Self::Udp1300Reordered | Self::Udp64Reordered)
    }
}

#[cfg(test)]
mod tests {
    use super::Workload;

    #[test]
    fn workloads_are_selected_by_the_beginning_of_their_names() {
        let select = |names: &[&str]| {
            Workload::select(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(select(&[]).unwrap(), Workload::ALL);
        assert_eq!(
            select(&["rtt", "tcp1"]).unwrap(),
            [
                Workload::Tcp1Up,
                Workload::Tcp1Down,
                Workload::RttIdle,
                Workload::RttChain,
                Workload::RttLoaded
            ]
        );
        let error = select(&["tcp1", "tpc"]).unwrap_err();
        assert!(error.contains("`tpc`") && error.contains("udp-64"), "{error}");
    }
}
