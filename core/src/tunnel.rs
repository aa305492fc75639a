// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tunnels that a node may terminate: what is in them comes out as another source (`docs/adr/0039`).

/// UDP ports that decapsulate at a node: L2TP, GTP-U, AMT, VXLAN (as IANA and as Linux have it), VXLAN-GPE, GUE,
/// Geneve, MPLS.
pub const UDP_PORTS: [u16; 9] = [1701, 2152, 2268, 4789, 4790, 6080, 6081, 6635, 8472];

/// IP protocols that decapsulate at a node: IPIP, 6in4, GRE, EtherIP, PIM (whose registers carry packets), IPComp, L2TP,
/// MPLS, Ethernet (SRv6).
pub const PROTOCOLS: [u8; 9] = [4, 41, 47, 97, 103, 108, 115, 137, 143];
