// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is in the API server: namespaces, pods and policies by number, so that any of them can be made again.
//!
//! Pod `p` is in namespace `p mod namespaces`. The first pods are node1's, at most one in a namespace; in each namespace
//! five policies select it, two of them by its `app`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// The node whose enforcer is measured.
pub(crate) const NODE: &str = "node1";
/// The node on which all other pods are said to run.
const ELSEWHERE: &str = "node2";
/// What pods are, by the label `app`.
const APPS: [&str; 5] = ["web", "api", "cache", "database", "worker"];
/// Policies of a namespace.
pub(crate) const POLICIES: usize = 5;
/// The port at which the policy that is edited lets its peers in until it is edited.
pub(crate) const PORT: u16 = 8080;

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    pub(crate) namespaces: u32,
    /// Pods on the measured node, one in a namespace.
    pub(crate) local: u32,
}

/// A pod as the API server has it.
#[derive(Debug, Clone)]
pub(crate) struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) app: &'static str,
    node: &'static str,
    pub(crate) addresses: [IpAddr; 2],
}

impl World {
    pub(crate) fn namespace(number: u32) -> String {
        format!("team-{number:03}")
    }

    pub(crate) fn namespace_labels(number: u32) -> Value {
        let purpose = if number.is_multiple_of(50) {
            "monitoring"
        } else {
            "work"
        };
        json!({"division": format!("division-{}", number % 20), "purpose": purpose})
    }

    /// Pod `number`.
    pub(crate) fn pod(self, number: u32) -> PodSpec {
        let namespace = number % self.namespaces;
        let (node, addresses) = if number < self.local {
            (NODE, local_addresses(number))
        } else {
            (ELSEWHERE, remote_addresses(number))
        };
        PodSpec {
            namespace: Self::namespace(namespace),
            name: format!("pod-{number}"),
            app: app(number / self.namespaces + namespace),
            node,
            addresses,
        }
    }

    /// A pod of the measured node beyond those that are always there, in `namespace` and selected by its policies.
    pub(crate) fn late_pod(self, number: u32, place: u32) -> PodSpec {
        let namespace = number % self.local;
        PodSpec {
            namespace: Self::namespace(namespace),
            name: format!("late-{number}"),
            app: own_app(namespace),
            node: NODE,
            addresses: local_addresses(self.local + place),
        }
    }

    /// A pod elsewhere that may reach the local pod of `namespace` at [`PORT`]; it is among the first thousand.
    pub(crate) fn peer_of(self, namespace: u32) -> PodSpec {
        self.pod(namespace + self.namespaces)
    }

    /// A pod elsewhere that may not; its `app` can be made a peer's.
    pub(crate) fn stranger_to(self, namespace: u32) -> PodSpec {
        self.pod(namespace + 2 * self.namespaces)
    }

    /// The `app` of the peers of the local pod of `namespace`.
    pub(crate) fn peer_app(namespace: u32) -> &'static str {
        app(namespace + 1)
    }

    /// The policies of a namespace.
    pub(crate) fn policies(self, namespace: u32) -> [(&'static str, Value); POLICIES] {
        let own = json!({"matchLabels": {"app": own_app(namespace)}});
        let division = format!("division-{}", (namespace + 1) % 20);
        let second = 128 + (namespace & 63);
        [
            (
                "default-deny",
                json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
            ),
            (
                "peers",
                json!({"podSelector": own, "policyTypes": ["Ingress"], "ingress": Self::ingress(namespace, PORT)}),
            ),
            (
                "division",
                json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{
                    "from": [{"namespaceSelector": {"matchLabels": {"division": division}},
                        "podSelector": {"matchLabels": {"app": "api"}}}],
                    "ports": [{"port": "http"}, {"port": 8443, "endPort": 8450}],
                }]}),
            ),
            (
                "outwards",
                json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
                    {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
                        "ports": [{"protocol": "UDP", "port": 53}]},
                    {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [format!("10.{second}.0.0/16")]}},
                        {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In",
                            "values": ["cache", "database"]}]}}]},
                ]}),
            ),
            (
                "monitoring",
                json!({"podSelector": own, "policyTypes": ["Ingress"], "ingress": [{
                    "from": [{"namespaceSelector": {"matchLabels": {"purpose": "monitoring"}},
                        "podSelector": {"matchLabels": {"app": "worker"}}}],
                    "ports": [{"port": 9100}],
                }]}),
            ),
        ]
    }

    /// The policy that is edited, and what it then says.
    pub(crate) const EDITED: &str = "peers";

    /// Peers may come in at `port`.
    pub(crate) fn ingress(namespace: u32, port: u16) -> Value {
        json!([{
            "from": [{"podSelector": {"matchLabels": {"app": Self::peer_app(namespace)}}}],
            "ports": [{"port": port}],
        }])
    }
}

impl PodSpec {
    /// As somebody writes it.
    pub(crate) fn object(&self) -> Value {
        json!({
            "metadata": {"name": self.name, "namespace": self.namespace,
                "labels": {"app": self.app, "tier": "backend", "pod-template-hash": "6c9f8d7b5"}},
            "spec": {"nodeName": self.node, "containers": [{"name": "main", "image": "podgate.test/pause:1",
                "ports": [{"name": "http", "containerPort": 8000}]}]},
        })
    }

    /// What a kubelet would say of it.
    pub(crate) fn status(&self) -> Value {
        let [first, _] = self.addresses;
        let all: Vec<Value> = self.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"status": {"phase": "Running", "podIP": first, "podIPs": all}})
    }
}

fn app(number: u32) -> &'static str {
    APPS[number as usize % APPS.len()]
}

/// The `app` of the local pod of a namespace.
fn own_app(namespace: u32) -> &'static str {
    app(namespace)
}

fn local_addresses(number: u32) -> [IpAddr; 2] {
    let first = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1);
    addresses(Ipv4Addr::new(10, 244, 1, 1), first, number)
}

fn remote_addresses(number: u32) -> [IpAddr; 2] {
    let first = Ipv6Addr::new(0xfd00, 0x10, 0x128, 0, 0, 0, 0, 1);
    addresses(Ipv4Addr::new(10, 128, 0, 1), first, number)
}

fn addresses(first: Ipv4Addr, first6: Ipv6Addr, number: u32) -> [IpAddr; 2] {
    [
        IpAddr::from(Ipv4Addr::from_bits(first.to_bits() + number)),
        IpAddr::from(Ipv6Addr::from_bits(first6.to_bits() + u128::from(number))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORLD: World = World {
        namespaces: 200,
        local: 110,
    };

    /// The local pod of a namespace is selected by the policies of that namespace, and its peers are not.
    #[test]
    fn policies_select_the_local_pods_and_not_their_peers() {
        for namespace in 0..WORLD.local {
            let [_, (name, peers), ..] = WORLD.policies(namespace);
            assert_eq!(name, World::EDITED);
            let selected = &peers["podSelector"]["matchLabels"]["app"];
            assert_eq!(*selected, WORLD.pod(namespace).app);
            assert_eq!(*selected, WORLD.late_pod(namespace, 0).app);
            assert_eq!(WORLD.peer_of(namespace).app, World::peer_app(namespace));
            assert_ne!(WORLD.stranger_to(namespace).app, World::peer_app(namespace));
        }
    }

    #[test]
    fn no_two_pods_have_an_address_in_common() {
        let pods = (0..5_000).map(|number| WORLD.pod(number));
        let late = (0..50).map(|place| WORLD.late_pod(place, place));
        let mut addresses: Vec<IpAddr> = pods.chain(late).flat_map(|pod| pod.addresses).collect();
        let all = addresses.len();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), all);
    }
}
