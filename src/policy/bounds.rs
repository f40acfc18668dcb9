//! How fast, how much, how many: the figures of a user or a group.

use serde::{Deserialize, Serialize};

/// Bounds of a user or a group. What is `None` is not bounded here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Bits per second of inner packets from all of a user's devices together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_bps: Option<u64>,
    /// Bits per second of inner packets to all of a user's devices together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_bps: Option<u64>,
    /// Devices that may be online at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<u32>,
    /// Devices that may be registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices_max: Option<u32>,
    /// Bytes of inner packets, both ways, in one day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day_bytes: Option<u64>,
    /// The same in one calendar month (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month_bytes: Option<u64>,
    /// Connections by the proxy at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
    /// Connections by the proxy that may be opened each second, ten seconds' worth of which may
    /// come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_s: Option<u32>,
}

impl Bounds {
    /// A user's bounds: its own where they are set, otherwise the most generous of its groups
    /// (each figure by itself; a group that does not bound it does not count).
    pub fn of_user(own: &Self, groups: &[Self]) -> Self {
        let best = |field: fn(&Self) -> Option<u64>| {
            field(own).or_else(|| groups.iter().filter_map(field).max())
        };
        let best_count = |field: fn(&Self) -> Option<u32>| {
            field(own).or_else(|| groups.iter().filter_map(field).max())
        };
        Self {
            up_bps: best(|bounds| bounds.up_bps),
            down_bps: best(|bounds| bounds.down_bps),
            sessions_max: best_count(|bounds| bounds.sessions_max),
            devices_max: best_count(|bounds| bounds.devices_max),
            day_bytes: best(|bounds| bounds.day_bytes),
            month_bytes: best(|bounds| bounds.month_bytes),
            connections_max: best_count(|bounds| bounds.connections_max),
            connections_per_s: best_count(|bounds| bounds.connections_per_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_figure_wins_and_the_most_generous_group_comes_next() {
        let own = Bounds { up_bps: Some(1), ..Bounds::default() };
        let small = Bounds {
            up_bps: Some(5),
            down_bps: Some(5),
            connections_max: Some(6),
            connections_per_s: Some(3),
            ..Bounds::default()
        };
        let large = Bounds {
            down_bps: Some(9),
            devices_max: Some(2),
            connections_max: Some(7),
            ..Bounds::default()
        };
        let expected = Bounds {
            up_bps: Some(1),
            down_bps: Some(9),
            devices_max: Some(2),
            connections_max: Some(7),
            connections_per_s: Some(3),
            ..Bounds::default()
        };
        assert_eq!(Bounds::of_user(&own, &[small, large]), expected);
        assert_eq!(Bounds::of_user(&Bounds::default(), &[]), Bounds::default());
    }
}
