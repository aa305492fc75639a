// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sets of ports, as values: canonical, so that equal sets are equal values.

use crate::connection::Transport;
use crate::model::Protocol;

/// Ports `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest, not below `first`.
    pub last: u16,
}

/// A set of numbers from 0 to 65,535: ports, or the numbers of IP protocols.
///
/// Kept as sorted ranges with a gap between any two, so that a set has one form only.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSet {
    ranges: Vec<PortRange>,
}

impl PortSet {
    /// No port.
    pub const fn none() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Every port.
    pub fn all() -> Self {
        Self::range(0, u16::MAX)
    }

    /// Ports `first` to `last`, both included; none if `last` is below `first`.
    pub fn range(first: u16, last: u16) -> Self {
        Self::from_ranges([PortRange { first, last }])
    }

    /// The union of `ranges`, in whatever order they come; a range that ends before it begins is empty.
    pub fn from_ranges(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut sorted: Vec<PortRange> = ranges.into_iter().filter(|r| r.first <= r.last).collect();
        sorted.sort_unstable();
        let mut joined: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match joined.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last)
                }
                Some(_) | None => joined.push(range),
            }
        }
        Self { ranges: joined }
    }

    /// The set of these single ports.
    pub fn of(ports: impl IntoIterator<Item = u16>) -> Self {
        Self::from_ranges(ports.into_iter().map(|port| PortRange {
            first: port,
            last: port,
        }))
    }

    /// Its ranges, lowest first, with a gap between any two.
    pub fn ranges(&self) -> &[PortRange] {
        &self.ranges
    }

    /// Whether no port is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether every port is in it.
    pub fn is_all(&self) -> bool {
        self.ranges
            == [PortRange {
                first: 0,
                last: u16::MAX,
            }]
    }

    /// Whether `port` is in it.
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|range| range.first <= port);
        after > 0 && port <= self.ranges[after - 1].last
    }

    /// Adds every port of `other`.
    pub fn add(&mut self, other: &Self) {
        if other.is_empty() || self == other {
            return;
        }
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        *self = Self::from_ranges(self.ranges.iter().chain(&other.ranges).copied());
    }

    /// Every port that is not in it.
    pub fn complement(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.ranges.len() + 1);
        let mut next = Some(0_u16);
        for range in &self.ranges {
            if let Some(first) = next
                && first < range.first
            {
                gaps.push(PortRange {
                    first,
                    last: range.first - 1,
                });
            }
            next = range.last.checked_add(1);
        }
        if let Some(first) = next {
            gaps.push(PortRange {
                first,
                last: u16::MAX,
            });
        }
        Self { ranges: gaps }
    }

    /// The ports of this set that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return self.clone();
        }
        let mut outside = self.complement();
        outside.add(other);
        outside.complement()
    }
}

/// What a ruleset says of one class of peers: which ports of which protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Destination ports of TCP.
    pub tcp: PortSet,
    /// Destination ports of UDP.
    pub udp: PortSet,
    /// Destination ports of SCTP.
    pub sctp: PortSet,
    /// Every other IP protocol, by its number.
    pub rest: PortSet,
}

impl Row {
    /// Nothing is allowed.
    pub const fn none() -> Self {
        Self {
            tcp: PortSet::none(),
            udp: PortSet::none(),
            sctp: PortSet::none(),
            rest: PortSet::none(),
        }
    }

    /// Everything is allowed.
    pub fn all() -> Self {
        Self {
            tcp: PortSet::all(),
            udp: PortSet::all(),
            sctp: PortSet::all(),
            rest: PortSet::all(),
        }
    }

    /// Whether `transport` is allowed.
    pub fn allows(&self, transport: Transport) -> bool {
        match transport {
            Transport::Port(protocol, port) => self.ports(protocol).contains(port),
            Transport::Other(number) => self.rest.contains(number.into()),
        }
    }

    /// The ports of `protocol`.
    pub fn ports(&self, protocol: Protocol) -> &PortSet {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
            Protocol::Sctp => &self.sctp,
        }
    }

    /// The ports of `protocol`, to be changed.
    pub fn ports_mut(&mut self, protocol: Protocol) -> &mut PortSet {
        match protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
            Protocol::Sctp => &mut self.sctp,
        }
    }

    /// Whether nothing is allowed.
    pub fn is_none(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty() && self.sctp.is_empty() && self.rest.is_empty()
    }

    /// All that any of `rows` allows.
    pub fn union<'a>(rows: impl IntoIterator<Item = &'a Self> + Clone) -> Self {
        let of = |ports: fn(&Self) -> &PortSet| {
            let sets = rows.clone().into_iter().map(ports);
            PortSet::from_ranges(sets.flat_map(|set| set.ranges.iter().copied()))
        };
        Self {
            tcp: of(|row| &row.tcp),
            udp: of(|row| &row.udp),
            sctp: of(|row| &row.sctp),
            rest: of(|row| &row.rest),
        }
    }

    /// Adds all that `other` allows.
    pub fn add(&mut self, other: &Self) {
        self.tcp.add(&other.tcp);
        self.udp.add(&other.udp);
        self.sctp.add(&other.sctp);
        self.rest.add(&other.rest);
    }

    /// What both this row and `other` allow.
    pub fn and(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// What this row allows and `other` does not.
    pub fn without(&self, other: &Self) -> Self {
        Self {
            tcp: self.tcp.without(&other.tcp),
            udp: self.udp.without(&other.udp),
            sctp: self.sctp.without(&other.sctp),
            rest: self.rest.without(&other.rest),
        }
    }
}
