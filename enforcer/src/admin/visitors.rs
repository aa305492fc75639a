// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who may have a connection: the accounts of one listener.
//!
//! The node's own processes (the kubelet among them) and everybody else have budgets of their own, so that nothing that
//! others open keeps a probe of the node from its answer. Within the budget of the others each address has a share.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How much a listener does at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections of the node itself.
    pub(super) own: usize,
    /// Connections of everybody else together.
    pub(super) others: usize,
    /// Connections of one address.
    pub(super) each: usize,
    /// Connections that all others may begin within a [`WINDOW`].
    pub(super) others_begin: usize,
    /// Connections that one address may begin within a [`WINDOW`].
    pub(super) each_begins: usize,
}

/// The time in which beginnings are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(1);

impl Limits {
    /// For a process that may have this many descriptors: two listeners with these limits take an eighth of them at
    /// most, and 256 however many there are.
    pub(super) fn within(descriptors: u64) -> Self {
        let share = usize::try_from(descriptors / 32).unwrap_or(usize::MAX);
        let share = share.clamp(4, 64);
        Self {
            own: share,
            others: share,
            each: (share / 8).max(2),
            others_begin: 40,
            each_begins: 10,
        }
    }
}

/// A connection's place in the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Visitor {
    /// From the node itself.
    Own,
    /// From this address.
    Other(IpAddr),
}

impl Visitor {
    /// Who is at the other end of a connection to `local`. A connection whose two ends have one address was made on this
    /// machine: the answer to a foreign packet with this source would never leave it.
    pub(super) fn of(peer: SocketAddr, local: SocketAddr) -> Self {
        let (peer, local) = (peer.ip().to_canonical(), local.ip().to_canonical());
        if peer.is_loopback() || peer == local {
            Self::Own
        } else {
            Self::Other(peer)
        }
    }
}

/// The connections that are open, and those that began in this window. Bounded by [`Limits`]: only who was let in is
/// remembered.
#[derive(Debug)]
pub(super) struct Visitors {
    limits: Limits,
    open: BTreeMap<Visitor, usize>,
    /// Of them, those of others.
    open_others: usize,
    window: Instant,
    begun: BTreeMap<IpAddr, usize>,
    begun_others: usize,
}

impl Visitors {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            open: BTreeMap::new(),
            open_others: 0,
            window: now,
            begun: BTreeMap::new(),
            begun_others: 0,
        }
    }

    /// Whether one more connection is served. If so it counts until [`Self::leave`].
    pub(super) fn admit(&mut self, visitor: Visitor, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= WINDOW {
            self.window = now;
            self.begun.clear();
            self.begun_others = 0;
        }
        let open = self.open.get(&visitor).copied().unwrap_or(0);
        let limits = self.limits;
        match visitor {
            Visitor::Own if open >= limits.own => return false,
            Visitor::Own => {}
            Visitor::Other(address) => {
                let begun = self.begun.get(&address).copied().unwrap_or(0);
                if open >= limits.each
                    || begun >= limits.each_begins
                    || self.open_others >= limits.others
                    || self.begun_others >= limits.others_begin
                {
                    return false;
                }
                self.begun.insert(address, begun + 1);
                self.begun_others += 1;
                self.open_others += 1;
            }
        }
        self.open.insert(visitor, open + 1);
        true
    }

    /// A connection that was admitted has ended.
    pub(super) fn leave(&mut self, visitor: Visitor) {
        match visitor {
            Visitor::Own => {}
            Visitor::Other(_) => self.open_others = self.open_others.saturating_sub(1),
        }
        match self.open.get_mut(&visitor) {
            Some(open) if *open > 1 => *open -= 1,
            Some(_) | None => drop(self.open.remove(&visitor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        own: 3,
        others: 4,
        each: 2,
        others_begin: 6,
        each_begins: 3,
    };

    fn other(last: u8) -> Visitor {
        Visitor::Other(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn each_address_has_a_share_and_the_node_a_budget_of_its_own() {
        let now = Instant::now();
        let mut visitors = Visitors::new(LIMITS, now);
        let mut admitted =
            |visitor, times: usize| (0..times).filter(|_| visitors.admit(visitor, now)).count();
        assert_eq!(admitted(other(1), 1000), 2);
        assert_eq!(admitted(other(2), 1), 1);
        assert_eq!(admitted(other(3), 1000), 1, "all others together");
        assert_eq!(admitted(Visitor::Own, 1000), 3);
    }

    #[test]
    fn an_ended_connection_makes_room_until_the_window_is_used_up() {
        let mut now = Instant::now();
        let mut visitors = Visitors::new(LIMITS, now);
        let served = |visitors: &mut Visitors, visitor, now| {
            let mut served = 0;
            for _ in 0..1000 {
                if visitors.admit(visitor, now) {
                    visitors.leave(visitor);
                    served += 1;
                }
            }
            served
        };
        assert_eq!(served(&mut visitors, other(1), now), 3);
        assert_eq!(served(&mut visitors, other(2), now), 3);
        assert_eq!(served(&mut visitors, other(3), now), 0);
        assert_eq!(served(&mut visitors, Visitor::Own, now), 1000);
        now += WINDOW;
        assert_eq!(served(&mut visitors, other(1), now), 3);
        assert!(visitors.open.is_empty() && visitors.open_others == 0);
        assert!(visitors.begun.len() <= LIMITS.others_begin);
    }

    #[test]
    fn who_is_on_this_machine_is_told_by_both_ends() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (peer, local, is_own) in [
            ("127.0.0.1:4", "127.0.0.1:8163", true),
            ("[::1]:4", "[::1]:8163", true),
            ("[::ffff:127.0.0.1]:4", "[::ffff:127.0.0.1]:8163", true),
            ("[::ffff:192.0.2.1]:4", "[::ffff:192.0.2.1]:8163", true),
            ("192.0.2.1:4", "192.0.2.1:8163", true),
            ("10.96.0.2:4", "127.0.0.1:8163", false),
            ("10.96.0.2:4", "10.96.0.1:8163", false),
            ("[fd96::2]:4", "[fd96::1]:8163", false),
        ] {
            let visitor = Visitor::of(at(peer), at(local));
            assert_eq!(visitor == Visitor::Own, is_own, "{peer} to {local}");
        }
    }

    #[test]
    fn both_listeners_together_leave_most_descriptors_alone() {
        for descriptors in [64, 256, 1024, 20_000, 1_048_576, u64::MAX] {
            let limits = Limits::within(descriptors);
            let both = 2 * (limits.own + limits.others) as u64;
            assert!(both <= 256 && both <= (descriptors / 8).max(16));
            assert!(limits.each < limits.others);
        }
    }
}
