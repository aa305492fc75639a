// SPDX-License-Identifier: Apache-2.0 OR MIT
/// A direction of traffic and of policy, seen from the pod.
///
/// Not the kernel's: its words are about the host end of the veth, so what is ingress here leaves by the host end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// To the pod: leaves the host by the host end. The peer opens the connections.
    Ingress = 0,
    /// From the pod: enters the host by the host end. The pod opens the connections.
    Egress = 1,
}

impl Direction {
    /// Both, in the order of the words of an attachment.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The other one.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// The program that sees its packets: its name in the eBPF object and among its pins, and the label of its counters.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Ingress => "to_pod",
            Self::Egress => "from_pod",
        }
    }
}
