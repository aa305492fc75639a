// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random Services and EndpointSlices, over the same addresses as everything else.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{
    NAMESPACES, PODS, PORT_NAMES, PORTS, address, ipv4, ipv6, pod_name, prefix, protocol, uid_of,
};
use crate::model::{
    Endpoint, EndpointSlice, EndpointState, ExternalAddresses, HostPort, NamedPort, ObjectName,
    Pod, PodReference, Protocol, Service, ServiceEgress, ServiceOptions, ServicePort,
    TrafficPolicy,
};

const NAMES: [&str; 2] = ["s", "t"];
const SLICES: [&str; 3] = ["s-1", "s-2", "t-1"];
const NODES: [&str; 2] = ["here", "there"];

/// Some Services and EndpointSlices.
pub(super) type Objects = (
    Vec<(ObjectName, Arc<Service>)>,
    Vec<(ObjectName, Arc<EndpointSlice>)>,
);

pub(super) fn objects() -> impl Strategy<Value = Objects> {
    let services = vec((service_name(), service().prop_map(Arc::new)), 0..=3);
    let slices = vec((slice_name(), slice().prop_map(Arc::new)), 0..=4);
    (services, slices)
}

/// The name of a Service.
pub fn service_name() -> impl Strategy<Value = ObjectName> {
    (select(&NAMESPACES[..2]), select(&NAMES[..]))
        .prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

/// The name of an EndpointSlice.
pub fn slice_name() -> impl Strategy<Value = ObjectName> {
    (select(&NAMESPACES[..2]), select(&SLICES[..]))
        .prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

/// A node's name, or none.
pub fn node_name() -> impl Strategy<Value = Option<String>> {
    option::weighted(0.7, select(&NODES[..]).prop_map(str::to_owned))
}

/// What Services mean.
pub fn options() -> impl Strategy<Value = ServiceOptions> {
    let ranges = vec![
        Vec::new(),
        vec![prefix(ipv4(12), 30), prefix(ipv6(12), 126)],
    ];
    (
        select(&[ServiceEgress::All, ServiceEgress::All, ServiceEgress::Any][..]),
        select(&[ExternalAddresses::Literal, ExternalAddresses::Translated][..]),
        select(ranges),
    )
        .prop_map(|(egress, external, ranges)| ServiceOptions {
            egress,
            external,
            ranges,
        })
}

/// A Service: mostly its addresses are its own, sometimes they are a pod's, the node's, or another Service's.
pub fn service() -> impl Strategy<Value = Service> {
    let own = select(vec![ipv4(12), ipv4(13), ipv6(12), ipv6(13)]);
    let cluster = vec(prop_oneof![8 => own, 1 => address()], 0..=2);
    let elsewhere = select(vec![ipv4(14), ipv6(14), ipv4(0), ipv6(0)]);
    let external = || vec(prop_oneof![4 => elsewhere.clone(), 1 => address()], 0..=1);
    let policy = select(
        &[
            TrafficPolicy::Cluster,
            TrafficPolicy::Cluster,
            TrafficPolicy::Local,
        ][..],
    );
    let addresses = (cluster, external(), external());
    (addresses, vec(service_port(), 1..=2), policy).prop_map(
        |((cluster_addresses, external_addresses, balancer_addresses), ports, internal_traffic)| {
            Service {
                cluster_addresses,
                external_addresses,
                balancer_addresses,
                ports,
                internal_traffic,
            }
        },
    )
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 1 => select(&PORT_NAMES[..]).prop_map(str::to_owned)]
}

fn number() -> impl Strategy<Value = u16> {
    prop_oneof![6 => select(&PORTS[..3]), 1 => select(&PORTS[..])]
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let node_port = option::weighted(0.4, number());
    (name(), protocol(), number(), node_port).prop_map(|(name, protocol, number, node_port)| {
        ServicePort {
            name,
            protocol,
            number,
            node_port,
        }
    })
}

/// Some endpoints of a Service, or of none.
pub fn slice() -> impl Strategy<Value = EndpointSlice> {
    let service = option::weighted(0.95, select(&NAMES[..]).prop_map(str::to_owned));
    let port = (name(), protocol(), number()).prop_map(|(name, protocol, number)| NamedPort {
        name,
        protocol,
        number,
    });
    let whole = (vec(port, 1..=3), vec(endpoint(), 0..=3));
    let content = prop_oneof![
        15 => whole.prop_map(|(ports, endpoints)| (ports, endpoints, false)),
        1 => Just((Vec::new(), Vec::new(), true)),
    ];
    (service, content).prop_map(|(service, (ports, endpoints, is_closed))| EndpointSlice {
        service,
        ports,
        endpoints,
        is_closed,
    })
}

/// An endpoint: mostly a pod at the address that it should have.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let pods = NAMESPACES.len() * PODS.len();
    let truthful = (0..pods, any::<bool>()).prop_map(|(index, v4)| {
        let own = u8::try_from(index + 1).expect("few pods");
        let address = if v4 { ipv4(own) } else { ipv6(own) };
        let name = pod_name(index);
        let uid = uid_of(&name);
        (address, Some(PodReference { name, uid }))
    });
    let any_pod = (0..pods, option::of(0..pods)).prop_map(|(name, uid)| PodReference {
        name: pod_name(name),
        uid: uid.and_then(|index| uid_of(&pod_name(index))),
    });
    let identity = prop_oneof![4 => truthful, 2 => (address(), option::of(any_pod))];
    let state = select(
        &[
            EndpointState::Ready,
            EndpointState::Ready,
            EndpointState::Terminating,
            EndpointState::Unusable,
        ][..],
    );
    (identity, state, node_name()).prop_map(|((address, pod), state, node)| Endpoint {
        address,
        state,
        pod,
        node,
    })
}

/// A port of a node that leads to a pod.
pub(super) fn host_port() -> impl Strategy<Value = HostPort> {
    let host = option::weighted(0.3, address());
    (host, protocol(), number(), number()).prop_map(|(address, protocol, number, target)| {
        HostPort {
            address,
            protocol,
            number,
            target,
        }
    })
}

/// Makes every port UDP, and of one name.
pub(super) fn lead_into_tunnels(service: &mut Service) {
    for port in &mut service.ports {
        (port.name, port.protocol) = (String::new(), Protocol::Udp);
    }
}

/// The same, and the first port one of a tunnel.
pub(super) fn end_in_tunnels(slice: &mut EndpointSlice) {
    for port in &mut slice.ports {
        (port.name, port.protocol) = (String::new(), Protocol::Udp);
        port.number = or_tunnel(port.number);
    }
}

/// The same, of its host ports.
pub(super) fn be_led_to(pod: &mut Pod) {
    for port in &mut pod.host_ports {
        port.protocol = Protocol::Udp;
        port.target = or_tunnel(port.target);
    }
}

fn or_tunnel(number: u16) -> u16 {
    if number == PORTS[0] { 8472 } else { number }
}
