// SPDX-License-Identifier: Apache-2.0 OR MIT
use core::fmt;

use crate::Direction;

/// The directions in which a pod is isolated, or may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isolation {
    /// Towards the pod.
    pub ingress: bool,
    /// From the pod.
    pub egress: bool,
}

impl Isolation {
    /// Neither direction.
    pub const NONE: Self = Self {
        ingress: false,
        egress: false,
    };

    /// Both directions.
    pub const BOTH: Self = Self {
        ingress: true,
        egress: true,
    };

    /// Whether `direction` is among them.
    #[must_use]
    pub const fn of(self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }

    /// The directions that are in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            ingress: self.ingress || other.ingress,
            egress: self.egress || other.egress,
        }
    }

    /// Whether it is any direction.
    #[must_use]
    pub const fn any(self) -> bool {
        self.ingress || self.egress
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.ingress, self.egress) {
            (false, false) => "no direction",
            (true, false) => "ingress",
            (false, true) => "egress",
            (true, true) => "ingress and egress",
        })
    }
}
