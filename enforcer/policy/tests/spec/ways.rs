// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Item 36: Services that lead into a tunnel that ends at a node (`docs/adr/0077`).

use std::sync::Arc;

use podgate_policy::connection::Direction::{Egress, Ingress};
use podgate_policy::connection::Verdict::{Allow, Deny};
use podgate_policy::model::{
    Endpoint, EndpointSlice, EndpointState, HostPort, NamedPort, NetworkPolicy, ObjectName, Pod,
    Protocol, Rule, Service, ServicePort, TrafficPolicy, World,
};

use crate::fixture::*;

const CLUSTER: &str = "10.96.0.1";
const SECOND: &str = "10.96.0.2";
const EXTERNAL: &str = "203.0.113.1";
/// At another node.
const OTHER: &str = "192.0.2.2";
const VXLAN: u16 = 4789;

/// Adds Service `y/NAME` of UDP port 53 and this NodePort, with one endpoint.
fn serve(
    world: &mut World,
    name: &str,
    addresses: &[&str],
    node_port: Option<u16>,
    to: (&str, u16),
) {
    let service = Service {
        cluster_addresses: addresses.iter().map(|it| address(it)).collect(),
        external_addresses: vec![address(EXTERNAL)],
        ports: vec![ServicePort {
            name: "dns".into(),
            protocol: Protocol::Udp,
            number: 53,
            node_port,
        }],
        ..Service::default()
    };
    let slice = EndpointSlice {
        service: Some(name.into()),
        ports: vec![NamedPort {
            name: "dns".into(),
            protocol: Protocol::Udp,
            number: to.1,
        }],
        endpoints: vec![Endpoint {
            address: address(to.0),
            state: EndpointState::Ready,
            pod: None,
            node: None,
        }],
        is_closed: false,
    };
    let name = ObjectName::new("y", name);
    world.services.insert(name.clone(), Arc::new(service));
    world.endpoint_slices.insert(name, Arc::new(slice));
}

/// The EndpointSlice of Service `y/NAME`.
fn slice_of<'w>(world: &'w mut World, name: &str) -> &'w mut EndpointSlice {
    let slice = world.endpoint_slices.get_mut(&ObjectName::new("y", name));
    Arc::make_mut(slice.expect("a slice"))
}

fn with_nodes(policies: impl IntoIterator<Item = NetworkPolicy>) -> World {
    let mut world = world_with(policies);
    world.cluster_nodes.insert(address(OTHER));
    world
}

/// Nobody is asked which port a tunnel has, so nobody may go there: not open pods, and not those that may send everything.
fn open() -> [World; 2] {
    [with_nodes([]), with_nodes([egress([Rule::default()])])]
}

#[test]
fn attack_05_a_service_leads_no_open_pod_into_a_node_tunnel() {
    for mut world in open() {
        for node in [NODE, OTHER] {
            serve(&mut world, "s", &[CLUSTER], Some(30053), (node, 53));
            for peer in [CLUSTER, EXTERNAL] {
                assert_eq!(judge(&world, Egress, peer, udp(53)), Allow, "{node}");
            }
            serve(&mut world, "s", &[CLUSTER], Some(30053), (node, VXLAN));
            for peer in [CLUSTER, EXTERNAL] {
                assert_eq!(judge(&world, Egress, peer, udp(53)), Deny, "{node}");
                assert_eq!(judge(&world, Egress, peer, udp(54)), Allow, "{node}");
                assert_eq!(judge(&world, Egress, peer, tcp(53)), Allow, "{node}");
                assert_eq!(judge(&world, Ingress, peer, udp(53)), Allow, "{node}");
            }
            for peer in [NODE, OTHER] {
                assert_eq!(judge(&world, Egress, peer, udp(30053)), Deny, "{node}");
                assert_eq!(judge(&world, Egress, peer, udp(30054)), Allow, "{node}");
            }
            assert_eq!(judge(&world, Egress, STRANGER, udp(30053)), Allow);
        }
    }
}

#[test]
fn attack_05_a_tunnel_at_somebody_else_is_an_ordinary_service() {
    for mut world in open() {
        for peer in [STRANGER, X_DB] {
            serve(&mut world, "s", &[CLUSTER], Some(30053), (peer, VXLAN));
            assert_eq!(judge(&world, Egress, CLUSTER, udp(53)), Allow, "{peer}");
            assert_eq!(judge(&world, Egress, OTHER, udp(30053)), Allow, "{peer}");
        }
    }
}

#[test]
fn attack_05_a_service_leads_to_one_that_leads_into_a_tunnel() {
    for to in [(OTHER, 30053), (NODE, 30053), (EXTERNAL, 53), (CLUSTER, 53)] {
        for mut world in open() {
            serve(&mut world, "first", &[CLUSTER], Some(30053), (OTHER, VXLAN));
            serve(&mut world, "second", &[SECOND], None, to);
            assert_eq!(judge(&world, Egress, SECOND, udp(53)), Deny, "{to:?}");
            serve(&mut world, "first", &[CLUSTER], Some(30053), (OTHER, 53));
            assert_eq!(judge(&world, Egress, SECOND, udp(53)), Allow, "{to:?}");
        }
    }
    // Whose rules are asked about the endpoint is not asked about what that leads to.
    let mut world = with_nodes([egress([with_peers([block(&format!("{OTHER}/32"), &[])])])]);
    serve(&mut world, "first", &[CLUSTER], Some(30053), (OTHER, VXLAN));
    serve(&mut world, "second", &[SECOND], None, (OTHER, 30053));
    assert_eq!(judge(&world, Egress, SECOND, udp(53)), Deny);
    assert_eq!(judge(&world, Egress, OTHER, udp(30053)), Deny);
    assert_eq!(judge(&world, Egress, OTHER, udp(30054)), Allow);
}

#[test]
fn two_services_that_lead_to_each_other_lead_nowhere_else() {
    for mut world in open() {
        serve(&mut world, "first", &[CLUSTER], None, (SECOND, 53));
        serve(&mut world, "second", &[SECOND], None, (CLUSTER, 53));
        assert_eq!(judge(&world, Egress, SECOND, udp(53)), Allow);
    }
}

/// A rule that names the tunnel's port opens the Service that leads there.
#[test]
fn a_rule_with_the_tunnels_port_opens_the_service_to_it() {
    let named = |port| {
        let ports = with_ports([range(Protocol::Udp, port, port)]);
        [
            with_nodes([egress([ports.clone()])]),
            with_nodes([egress([ports, Rule::default()])]),
        ]
    };
    for (port, wanted) in [(VXLAN, Allow), (8472, Deny)] {
        for mut world in named(port) {
            serve(&mut world, "s", &[CLUSTER], None, (OTHER, VXLAN));
            assert_eq!(judge(&world, Egress, CLUSTER, udp(53)), wanted, "{port}");
        }
    }
}

/// A rule that names the Service's address does not open the tunnel behind it, which the author of the Service chose.
#[test]
fn attack_05_a_rule_for_the_services_address_opens_no_tunnel() {
    let to = |peer: &str| {
        let mut rule = with_peers([block(&format!("{peer}/32"), &[])]);
        rule.ports = vec![
            range(Protocol::Udp, 53, 53),
            range(Protocol::Udp, 30053, 30053),
        ];
        rule
    };
    let tunnel = with_ports([range(Protocol::Udp, VXLAN, VXLAN)]);
    for (peer, port) in [(CLUSTER, 53), (EXTERNAL, 53), (NODE, 30053)] {
        for (rules, wanted) in [
            (vec![to(peer)], Deny),
            (vec![with_peers([block(&format!("{peer}/32"), &[])])], Deny),
            (vec![to(peer), tunnel.clone()], Allow),
        ] {
            let mut world = with_nodes([egress(rules.clone())]);
            serve(&mut world, "s", &[CLUSTER], Some(30053), (OTHER, VXLAN));
            let found = judge(&world, Egress, peer, udp(port));
            assert_eq!(found, wanted, "{peer} {rules:?}");
            serve(&mut world, "s", &[CLUSTER], Some(30053), (OTHER, 53));
            if peer == CLUSTER {
                assert_eq!(judge(&world, Egress, peer, udp(port)), Allow);
            }
        }
    }
}

/// What the node takes for itself is no address of its own, and no rule can name it: broadcasts, anycast, local routes.
#[test]
fn attack_05_no_service_leads_to_a_tunnel_at_a_broadcast() {
    let wide = || egress([with_peers([block("0.0.0.0/0", &[])])]);
    for target in ["192.0.2.255", "255.255.255.255", "127.0.0.1"] {
        for mut world in open().into_iter().chain([with_nodes([wide()])]) {
            world.node_scopes.insert("192.0.2.255/32".parse().unwrap());
            serve(&mut world, "s", &[CLUSTER], None, (target, 53));
            assert_eq!(judge(&world, Egress, EXTERNAL, udp(53)), Allow, "{target}");
            serve(&mut world, "s", &[CLUSTER], None, (target, VXLAN));
            for peer in [CLUSTER, EXTERNAL] {
                assert_eq!(judge(&world, Egress, peer, udp(53)), Deny, "{target}");
            }
        }
    }
}

/// Another node chooses otherwise: what is near is another, and what goes may be all that it has.
#[test]
fn attack_05_an_endpoint_only_another_node_would_choose_counts() {
    for state in [EndpointState::Ready, EndpointState::Terminating] {
        for mut world in open() {
            world.node_name = Some("here".into());
            serve(&mut world, "s", &[CLUSTER], Some(30053), (OTHER, VXLAN));
            let name = ObjectName::new("y", "s");
            let service = Arc::make_mut(world.services.get_mut(&name).unwrap());
            service.internal_traffic = TrafficPolicy::Local;
            let slice = slice_of(&mut world, "s");
            slice.endpoints[0].state = state;
            slice.endpoints[0].node = Some("there".into());
            let near = Endpoint {
                address: address(X_DB),
                state: EndpointState::Ready,
                pod: None,
                node: Some("here".into()),
            };
            slice.endpoints.push(near);
            serve(&mut world, "second", &[SECOND], None, (CLUSTER, 53));
            assert_eq!(judge(&world, Egress, CLUSTER, udp(53)), Allow, "{state:?}");
            assert_eq!(judge(&world, Egress, SECOND, udp(53)), Deny, "{state:?}");
            assert_eq!(judge(&world, Egress, OTHER, udp(30053)), Deny, "{state:?}");
            let slice = slice_of(&mut world, "s");
            slice.endpoints[0].state = EndpointState::Unusable;
            assert_eq!(judge(&world, Egress, SECOND, udp(53)), Allow, "{state:?}");
            assert_eq!(judge(&world, Egress, OTHER, udp(30053)), Allow, "{state:?}");
        }
    }
}

#[test]
fn attack_05_the_address_of_a_pod_may_be_a_way_as_well() {
    for mut world in open() {
        serve(&mut world, "first", &[CLUSTER], None, (OTHER, VXLAN));
        let name = ObjectName::new("y", "first");
        let service = Arc::make_mut(world.services.get_mut(&name).unwrap());
        service.external_addresses = vec![address(X_DB)];
        serve(&mut world, "second", &[SECOND], None, (X_DB, 53));
        assert_eq!(judge(&world, Egress, SECOND, udp(53)), Deny);
        serve(&mut world, "first", &[CLUSTER], None, (OTHER, 53));
        assert_eq!(judge(&world, Egress, SECOND, udp(53)), Allow);
    }
}

/// A Service of which it is not known where it leads is closed. The enforcer keeps no more of it than that there is
/// one.
#[test]
fn attack_05_a_service_with_unknown_endpoints_is_closed() {
    let named = with_ports([range(Protocol::Udp, VXLAN, VXLAN)]);
    for mut world in open().into_iter().chain([with_nodes([egress([named])])]) {
        serve(&mut world, "s", &[CLUSTER], Some(30053), (OTHER, 53));
        let slice = slice_of(&mut world, "s");
        *slice = EndpointSlice {
            service: slice.service.clone(),
            is_closed: true,
            ..EndpointSlice::default()
        };
        for (peer, port) in [(CLUSTER, 53), (EXTERNAL, 53), (OTHER, 30053)] {
            assert_eq!(judge(&world, Egress, peer, udp(port)), Deny, "{peer}");
        }
    }
    let [mut world, _] = open();
    serve(&mut world, "s", &[CLUSTER], None, (OTHER, 53));
    assert_eq!(judge(&world, Egress, CLUSTER, tcp(53)), Allow);
}

/// A pod says that it has an address that a node takes for itself: what is sent to its host port ends there.
#[test]
fn attack_05_no_host_port_leads_to_a_tunnel_at_a_node() {
    for target in [NODE, OTHER, "192.0.2.255"] {
        for mut world in open() {
            let mut pod = Pod {
                addresses: vec![address(target)],
                host_ports: vec![HostPort {
                    address: None,
                    protocol: Protocol::Udp,
                    number: 53,
                    target: 53,
                }],
                ..Pod::default()
            };
            let name = ObjectName::new("y", "liar");
            world.node_scopes.insert("192.0.2.255/32".parse().unwrap());
            world.pods.insert(name.clone(), Arc::new(pod.clone()));
            assert_eq!(judge(&world, Egress, NODE, udp(53)), Allow, "{target}");
            pod.host_ports[0].target = VXLAN;
            world.pods.insert(name, Arc::new(pod));
            assert_eq!(judge(&world, Egress, NODE, udp(53)), Deny, "{target}");
            assert_eq!(judge(&world, Egress, NODE, tcp(53)), Allow, "{target}");
        }
    }
}

/// The node takes for itself what is sent to a pod's address, and the pod never gets it.
#[test]
fn attack_05_an_endpoint_that_the_node_takes_is_no_pod() {
    for mut world in open() {
        serve(&mut world, "s", &[CLUSTER], None, (X_DB, VXLAN));
        assert_eq!(judge(&world, Egress, CLUSTER, udp(53)), Allow);
        world
            .node_scopes
            .insert(format!("{X_DB}/32").parse().unwrap());
        assert_eq!(judge(&world, Egress, CLUSTER, udp(53)), Deny);
    }
}

/// A NodePort leads into a tunnel at the nodes that may choose an endpoint there.
#[test]
fn a_node_port_that_leads_into_a_tunnel_elsewhere_is_open_here() {
    for mut world in open() {
        serve(&mut world, "s", &[CLUSTER], Some(30053), (OTHER, VXLAN));
        let slice = slice_of(&mut world, "s");
        let ready = Endpoint {
            address: address(X_DB),
            ..slice.endpoints[0].clone()
        };
        slice.endpoints[0].state = EndpointState::Terminating;
        slice.endpoints.push(ready);
        assert_eq!(judge(&world, Egress, NODE, udp(30053)), Allow);
        assert_eq!(judge(&world, Egress, OTHER, udp(30053)), Deny);
    }
}
