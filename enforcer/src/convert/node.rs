// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nodes: of them only the addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1;

use super::{Converted, FieldErrors, FieldPath, addresses, names};

/// A node's addresses, and its name (empty, with an error, if the object has none).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedNode {
    /// Its name.
    pub name: String,
    /// What is known to reach it.
    pub addresses: BTreeSet<IpAddr>,
}

/// Converts a Node. Beside the addresses of its status it has the first two of each of its ranges of pods, which are
/// the network's own and the one that bridges and `host-local` give the node: tunnels end there as well.
pub fn convert(object: &v1::Node) -> Converted<NamedNode> {
    let mut errors = FieldErrors::default();
    let name = object.metadata.name.clone().unwrap_or_default();
    errors.keep(&FieldPath::of("metadata.name"), names::dns_subdomain(&name));
    let mut known = BTreeSet::new();
    let status = object.status.as_ref();
    let listed = status.and_then(|status| status.addresses.as_ref());
    for (index, listed) in listed.into_iter().flatten().enumerate() {
        // Others are names.
        if listed.type_.ends_with("IP") {
            let path = FieldPath::of("status.addresses")
                .index(index)
                .key("address");
            known.extend(errors.keep(&path, addresses::address(&listed.address)));
        }
    }
    let spec = object.spec.as_ref();
    let ranges = spec.and_then(|spec| spec.pod_cidrs.as_ref());
    for (index, range) in ranges.into_iter().flatten().enumerate() {
        let path = FieldPath::of("spec.podCIDRs").index(index);
        if let Some(range) = errors.keep(&path, addresses::block(range)) {
            known.extend(of_nodes(range));
        }
    }
    errors.beside(NamedNode {
        name,
        addresses: known,
    })
}

/// The addresses of a pod range that are the node's own, if it has more than two: its network (of IPv6 the anycast address of
/// routers), the first, which a bridge has, and the broadcast.
fn of_nodes(range: IpNet) -> Vec<IpAddr> {
    if range.max_prefix_len() - range.prefix_len() < 2 {
        return Vec::new();
    }
    let first = match range.network() {
        IpAddr::V4(address) => IpAddr::from((u32::from(address) + 1).to_be_bytes()),
        IpAddr::V6(address) => IpAddr::from((u128::from(address) + 1).to_be_bytes()),
    };
    let broadcast = first.is_ipv4().then(|| range.broadcast());
    [range.network(), first]
        .into_iter()
        .chain(broadcast)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node has the addresses of its status and those that networks give it.
    #[test]
    fn a_node_has_its_status_addresses_and_those_of_networks() {
        let address = |kind: &str, address: &str| v1::NodeAddress {
            type_: kind.into(),
            address: address.into(),
        };
        let node = v1::Node {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some("node2.example".into()),
                ..Default::default()
            },
            spec: Some(v1::NodeSpec {
                pod_cidrs: Some(vec![
                    "10.244.1.0/24".into(),
                    "fd00:1::/64".into(),
                    "x".into(),
                ]),
                ..v1::NodeSpec::default()
            }),
            status: Some(v1::NodeStatus {
                addresses: Some(vec![
                    address("InternalIP", "192.0.2.2"),
                    address("ExternalIP", "2001:db8::2"),
                    address("Hostname", "node2"),
                    address("InternalIP", "node2"),
                ]),
                ..v1::NodeStatus::default()
            }),
        };
        let Converted { value, errors } = convert(&node);
        assert_eq!(value.name, "node2.example");
        let expected = [
            "10.244.1.0",
            "10.244.1.1",
            "10.244.1.255",
            "192.0.2.2",
            "2001:db8::2",
            "fd00:1::",
            "fd00:1::1",
        ];
        assert_eq!(value.addresses, expected.map(|a| a.parse().unwrap()).into());
        let paths: Vec<_> = errors.iter().map(|c| c.path.to_string()).collect();
        assert_eq!(paths, ["status.addresses[3].address", "spec.podCIDRs[2]"]);
    }
}
