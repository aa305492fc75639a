// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random worlds, policies and connections, over a universe so small that everything meets everything.
//!
//! Three namespaces of three pods, two label keys with few values, the addresses of one /28 and one /124, a few
//! ports with the edges of the range and the ports of tunnels among them. Every oddity that the model can express
//! occurs: unknown namespaces, pods without labels or addresses, addresses that two pods claim, finished pods,
//! pods in the node's network, Services that share addresses, endpoints that say they are somebody else, elements that cannot be read, exceptions outside their block.

pub mod services;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

use crate::connection::{Baseline, Connection, Direction, Subject, Transport};
use crate::model::{
    EndpointSlice, Labels, ListName, Members, NAMESPACE_NAME_LABEL, NamedPort, Namespace,
    Namespaces, NetworkPolicy, ObjectName, Operator, Peer, Pod, PodUid, Port, Protocol,
    Requirement, Rule, Selector, Service, Started, World,
};

/// The names of the namespaces.
pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// The names of the pods of each namespace.
pub const PODS: [&str; 3] = ["a", "b", "c"];
/// How many addresses of each family there are.
pub const ADDRESSES: u8 = 16;

const LISTS: [&str; 3] = ["l", "m", "n"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["1", "2", ""];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
/// Ports: the ends of the range, and those of tunnels, among them.
pub const PORTS: [u16; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 4789, 6081, 8472, 0xFFFE, 0xFFFF];
/// ICMP, IPv4-in-IP, IPv6-in-IP, GRE, ICMPv6.
pub const OTHER_PROTOCOLS: [u8; 5] = [1, 4, 41, 47, 58];

/// The `index`th IPv4 address, of 10.0.0.0/28.
pub fn ipv4(index: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, index % ADDRESSES).into()
}

/// The `index`th IPv6 address, of fd00::/124.
pub fn ipv6(index: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, (index % ADDRESSES).into()).into()
}

/// An address of the universe.
pub fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![(0..ADDRESSES).prop_map(ipv4), (0..ADDRESSES).prop_map(ipv6)]
}

/// The address of a peer: mostly one of the universe, sometimes just beside it or at the end of all addresses.
pub fn peer_address() -> impl Strategy<Value = IpAddr> {
    let outside = [
        "0.0.0.0",
        "9.255.255.255",
        "10.0.0.16",
        "192.0.2.1",
        "127.0.0.1",
        "169.254.0.9",
        "224.0.0.1",
        "255.255.255.255",
    ]
    .into_iter()
    .chain([
        "fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fd00::10",
        "2001:db8::1",
        "::1",
        "fe80::9",
        "ff02::1",
    ])
    .map(|text| text.parse().expect("an address"))
    .collect::<Vec<IpAddr>>();
    prop_oneof![6 => address(), 1 => select(outside)]
}

/// A protocol that has ports.
pub fn protocol() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..])
}

/// A destination port of any protocol, or a protocol without ports.
pub fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        6 => (protocol(), select(&PORTS[..])).prop_map(|(protocol, port)| Transport::Port(protocol, port)),
        1 => select(&OTHER_PROTOCOLS[..]).prop_map(Transport::Other),
    ]
}

/// A connection in either direction.
pub fn connection() -> impl Strategy<Value = Connection> {
    (select(&Direction::BOTH[..]), peer_address(), transport()).prop_map(
        |(direction, peer, transport)| Connection {
            direction,
            peer,
            transport,
        },
    )
}

/// Either baseline.
pub fn baseline() -> impl Strategy<Value = Baseline> {
    select(&[Baseline::Allow, Baseline::Deny][..])
}

/// A world with up to six policies.
pub fn world() -> impl Strategy<Value = World> {
    let namespaces = NAMESPACES.map(|name| option::weighted(0.9, namespace(name)));
    let pods = vec(
        option::weighted(0.9, any::<u8>()),
        NAMESPACES.len() * PODS.len(),
    )
    .prop_flat_map(|present| {
        let pods = present
            .iter()
            .enumerate()
            .filter(|(_, present)| present.is_some());
        pods.map(|(index, _)| (Just(pod_name(index)), pod(index)))
            .collect::<Vec<_>>()
    });
    let policies = vec((policy_name(), policy()), 0..=6);
    let listed = vec((address(), lists()), 0..=6);
    let node = (
        (node_addresses(), node_scopes()),
        services::node_name(),
        services::options(),
        node_addresses(),
    );
    (
        namespaces,
        pods,
        policies,
        node,
        listed,
        services::objects(),
    )
        .prop_map(
            |(namespaces, pods, policies, node, listed, (services, slices))| World {
                namespaces: NAMESPACES
                    .iter()
                    .zip(namespaces)
                    .filter_map(|(name, namespace)| Some(((*name).to_owned(), namespace?)))
                    .collect(),
                pods: pods
                    .into_iter()
                    .map(|(name, pod)| (name, Arc::new(pod)))
                    .collect(),
                policies: policies
                    .into_iter()
                    .map(|(name, policy)| (name, Arc::new(policy)))
                    .collect(),
                services: services.into_iter().collect(),
                endpoint_slices: slices.into_iter().collect(),
                node_addresses: node.0.0,
                node_scopes: node.0.1,
                node_name: node.1,
                service_options: node.2,
                cluster_nodes: node.3.into_iter().collect(),
                listed: listed.into_iter().collect(),
                tunnel_ports: BTreeSet::new(),
            },
        )
}

/// The same, on a node whose devices take tunnels at ports of the universe.
pub fn world_with_tunnels() -> impl Strategy<Value = World> {
    let ports = btree_set(select(&PORTS[..]), 0..=2);
    (world(), ports).prop_map(|(world, tunnel_ports)| World {
        tunnel_ports,
        ..world
    })
}

/// A world where all that nodes translate is UDP, and much of it ends at the port of a tunnel: what leads to what is often a way
/// into one.
pub fn world_of_ways() -> impl Strategy<Value = World> {
    (world(), any::<bool>()).prop_map(|(mut world, may_send_everything)| {
        change_each(&mut world.services, services::lead_into_tunnels);
        change_each(&mut world.endpoint_slices, services::end_in_tunnels);
        change_each(&mut world.pods, services::be_led_to);
        if may_send_everything {
            change_each(&mut world.policies, |policy| {
                policy.egress = vec![Rule::default()];
            });
        }
        world
    })
}

/// Changes every object.
fn change_each<T: Clone>(objects: &mut OrdMap<ObjectName, Arc<T>>, change: impl Fn(&mut T)) {
    let changed = std::mem::take(objects)
        .into_iter()
        .map(|(name, mut object)| {
            change(Arc::make_mut(&mut object));
            (name, object)
        });
    *objects = changed.collect();
}

/// A change of such a world.
pub fn edit_of_ways() -> impl Strategy<Value = Edit> {
    edit().prop_map(|mut edit| {
        match &mut edit {
            Edit::Service(_, Some(service)) => services::lead_into_tunnels(service),
            Edit::EndpointSlice(_, Some(slice)) => services::end_in_tunnels(slice),
            Edit::Pod(_, Some(pod)) => services::be_led_to(pod),
            Edit::Namespace(..)
            | Edit::Pod(_, None)
            | Edit::Policy(..)
            | Edit::NodeAddresses(_)
            | Edit::ClusterNodes(_)
            | Edit::Service(_, None)
            | Edit::EndpointSlice(_, None)
            | Edit::Listed(..) => {}
        }
        edit
    })
}

/// A connection to what may be such a way.
pub fn way() -> impl Strategy<Value = Connection> {
    (address(), select(&PORTS[..3])).prop_map(|(peer, port)| Connection {
        direction: Direction::Egress,
        peer,
        transport: Transport::Port(Protocol::Udp, port),
    })
}

/// The pods of `world` that can be judged, all with the same baseline.
pub fn subjects(world: &World, baseline: Baseline) -> Vec<Subject> {
    let selectable = world.pods.iter().filter(|(_, pod)| pod.is_selectable());
    selectable
        .map(|(name, pod)| Subject::new(name.clone(), pod, baseline))
        .collect()
}

/// The UID of the pod called `name`. The last of each namespace has none that is known.
fn uid_of(name: &ObjectName) -> Option<PodUid> {
    (name.name != PODS[PODS.len() - 1]).then(|| PodUid(name.to_string().into()))
}

/// Any UIDs, of any namespace.
fn uids() -> impl Strategy<Value = BTreeSet<PodUid>> {
    let pods = NAMESPACES.len() * PODS.len();
    let uids: Vec<PodUid> = (0..pods)
        .filter_map(|index| uid_of(&pod_name(index)))
        .collect();
    btree_set(select(uids), 0..=3)
}

/// The lists of an address.
pub fn lists() -> impl Strategy<Value = Arc<BTreeSet<ListName>>> {
    btree_set(list(), 0..=2).prop_map(Arc::new)
}

fn list() -> impl Strategy<Value = ListName> {
    select(&LISTS[..]).prop_map(|name| ListName(name.into()))
}

/// One change of a world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// A namespace appears or changes its labels, or goes.
    Namespace(String, Option<Namespace>),
    /// A pod appears or changes, or goes.
    Pod(ObjectName, Option<Pod>),
    /// A policy appears or changes, or goes.
    Policy(ObjectName, Option<NetworkPolicy>),
    /// The node has other addresses.
    NodeAddresses(Vec<IpAddr>),
    /// The cluster's nodes have these addresses now.
    ClusterNodes(Vec<IpAddr>),
    /// A Service appears or changes, or goes.
    Service(ObjectName, Option<Service>),
    /// An EndpointSlice appears or changes, or goes.
    EndpointSlice(ObjectName, Option<EndpointSlice>),
    /// An address is in other lists, or in none.
    Listed(IpAddr, Option<Arc<BTreeSet<ListName>>>),
}

impl Edit {
    /// Makes the change.
    pub fn apply(self, world: &mut World) {
        match self {
            Self::Namespace(name, Some(namespace)) => {
                world.namespaces.insert(name, namespace);
            }
            Self::Namespace(name, None) => {
                world.namespaces.remove(&name);
            }
            Self::Pod(name, Some(pod)) => {
                world.pods.insert(name, Arc::new(pod));
            }
            Self::Pod(name, None) => {
                world.pods.remove(&name);
            }
            Self::Policy(name, Some(policy)) => {
                world.policies.insert(name, Arc::new(policy));
            }
            Self::Policy(name, None) => {
                world.policies.remove(&name);
            }
            Self::NodeAddresses(addresses) => world.node_addresses = addresses,
            Self::ClusterNodes(addresses) => {
                world.cluster_nodes = addresses.into_iter().collect();
            }
            Self::Service(name, Some(service)) => {
                world.services.insert(name, Arc::new(service));
            }
            Self::Service(name, None) => {
                world.services.remove(&name);
            }
            Self::EndpointSlice(name, Some(slice)) => {
                world.endpoint_slices.insert(name, Arc::new(slice));
            }
            Self::EndpointSlice(name, None) => {
                world.endpoint_slices.remove(&name);
            }
            Self::Listed(address, Some(lists)) => {
                world.listed.insert(address, lists);
            }
            Self::Listed(address, None) => {
                world.listed.remove(&address);
            }
        }
    }
}

/// A change of one thing: mostly of a policy or a pod.
pub fn edit() -> impl Strategy<Value = Edit> {
    let pods = NAMESPACES.len() * PODS.len();
    let pod_edit =
        (0..pods).prop_flat_map(|index| (Just(pod_name(index)), option::weighted(0.8, pod(index))));
    let namespace_edit = select(&NAMESPACES[..]).prop_flat_map(|name| {
        (
            Just(name.to_owned()),
            option::weighted(0.8, namespace(name)),
        )
    });
    let service_edit = (
        services::service_name(),
        option::weighted(0.8, services::service()),
    );
    let slice_edit = (
        services::slice_name(),
        option::weighted(0.8, services::slice()),
    );
    prop_oneof![
        2 => service_edit.prop_map(|(name, service)| Edit::Service(name, service)),
        3 => slice_edit.prop_map(|(name, slice)| Edit::EndpointSlice(name, slice)),
        5 => (policy_name(), option::weighted(0.7, policy())).prop_map(|(name, policy)| Edit::Policy(name, policy)),
        4 => pod_edit.prop_map(|(name, pod)| Edit::Pod(name, pod)),
        2 => namespace_edit.prop_map(|(name, namespace)| Edit::Namespace(name, namespace)),
        1 => node_addresses().prop_map(Edit::NodeAddresses),
        1 => node_addresses().prop_map(Edit::ClusterNodes),
        2 => (address(), option::weighted(0.7, lists())).prop_map(|(address, lists)| Edit::Listed(address, lists)),
    ]
}

/// The name of the `index`th pod.
fn pod_name(index: usize) -> ObjectName {
    ObjectName::new(NAMESPACES[index / PODS.len()], PODS[index % PODS.len()])
}

fn policy_name() -> impl Strategy<Value = ObjectName> {
    (select(&NAMESPACES[..]), select(&["p", "q", "r"][..]))
        .prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

/// Labels of an object.
pub fn labels() -> impl Strategy<Value = Labels> {
    btree_map(text(&KEYS), text(&VALUES), 0..=2)
}

/// The namespace called `name`, with any labels.
pub fn namespace(name: &'static str) -> impl Strategy<Value = Namespace> {
    labels().prop_map(move |labels| Namespace::new(name, labels))
}

/// Up to three addresses; the first and the last of a family seldom belong to a pod.
pub fn node_addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    vec(
        prop_oneof![3 => select(vec![ipv4(0), ipv4(15), ipv6(0), ipv6(15)]), 1 => address()],
        0..=3,
    )
}

/// Seldom any: a broadcast address, or a range of the universe that the node takes for itself.
pub fn node_scopes() -> impl Strategy<Value = BTreeSet<IpNet>> {
    let scopes = vec![
        prefix(ipv4(15), 32),
        prefix(ipv4(8), 30),
        prefix(ipv6(8), 125),
    ];
    prop_oneof![3 => Just(BTreeSet::new()), 1 => btree_set(select(scopes), 1..=2)]
}

/// The `index`th pod. Mostly it has addresses that no other pod has, and is neither finished nor of the node's network.
pub fn pod(index: usize) -> impl Strategy<Value = Pod> {
    let own = u8::try_from(index + 1).expect("few pods");
    let addresses = prop_oneof![
        3 => Just(vec![ipv4(own)]),
        2 => Just(vec![ipv6(own)]),
        3 => Just(vec![ipv4(own), ipv6(own)]),
        2 => vec(address(), 0..=2),
    ];
    (
        labels(),
        addresses,
        vec(named_port(), 0..=3),
        prop::bool::weighted(0.08),
        prop::bool::weighted(0.08),
        (services::node_name(), vec(services::host_port(), 0..=1)),
    )
        .prop_map(
            move |(labels, addresses, ports, host_network, finished, (node, host_ports))| Pod {
                labels,
                addresses,
                // As good as drawn: nothing else goes by how many names there are.
                started: i64::try_from(ports.len())
                    .ok()
                    .filter(|names| *names > 0)
                    .map(Started),
                ports,
                host_network,
                finished,
                uid: uid_of(&pod_name(index)),
                node,
                host_ports,
            },
        )
}

fn named_port() -> impl Strategy<Value = NamedPort> {
    (text(&PORT_NAMES), protocol(), select(&PORTS[..])).prop_map(|(name, protocol, number)| {
        NamedPort {
            name,
            protocol,
            number,
        }
    })
}

/// A policy of any namespace.
pub fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let isolates = select(
        &[
            (true, false),
            (false, true),
            (true, true),
            (true, true),
            (false, false),
        ][..],
    );
    (members(), isolates, vec(rule(), 0..=3), vec(rule(), 0..=3)).prop_map(
        |(members, (isolates_ingress, isolates_egress), ingress, egress)| NetworkPolicy {
            members,
            isolates_ingress,
            isolates_egress,
            ingress,
            egress,
        },
    )
}

/// Pods by label, mostly; some by UID as well, or only so.
pub fn members() -> impl Strategy<Value = Members> {
    let by_uid = (option::weighted(0.7, pod_selector()), uids(), uids());
    prop_oneof![
        2 => pod_selector().prop_map(Members::from),
        1 => by_uid.prop_map(|(matching, except, listed)| Members { matching, except, listed }),
    ]
}

/// A rule of either direction.
pub fn rule() -> impl Strategy<Value = Rule> {
    (vec(peer(), 0..=3), vec(port(), 0..=3)).prop_map(|(peers, ports)| Rule { peers, ports })
}

/// An element of `from` or `to`.
pub fn peer() -> impl Strategy<Value = Peer> {
    let namespaces = prop_oneof![
        Just(Namespaces::Own),
        namespace_selector().prop_map(Namespaces::Matching),
    ];
    prop_oneof![
        6 => (namespaces, pod_selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        6 => block(),
        3 => list().prop_map(Peer::Listed),
        1 => Just(Peer::Invalid),
    ]
}

/// A block with exceptions: most of them inside it, some equal to it, around it or elsewhere.
pub fn block() -> impl Strategy<Value = Peer> {
    // Around, inside and across scopes.
    let wide = [
        "0.0.0.0/0",
        "::/0",
        "128.0.0.0/1",
        "224.0.0.0/4",
        "169.254.0.0/24",
        "fe00::/7",
        "fe80::/64",
        "ff02::1/128",
    ]
    .map(|text| text.parse::<IpNet>().expect("a block"));
    let prefix = || prop_oneof![12 => prefix_near(), 2 => select(wide.to_vec())];
    (prefix(), vec(prefix_near(), 0..=4)).prop_map(|(cidr, except)| Peer::Block { cidr, except })
}

fn prefix_near() -> impl Strategy<Value = IpNet> {
    (address(), 0..=5_u8).prop_map(|(address, host_bits)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        prefix(address, longest - host_bits)
    })
}

fn prefix(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length)
        .expect("a length of the family")
        .trunc()
}

/// An element of `ports`.
pub fn port() -> impl Strategy<Value = Port> {
    let range = (protocol(), select(&PORTS[..]), select(&PORTS[..]));
    prop_oneof![
        2 => protocol().prop_map(Port::All),
        4 => range.prop_map(|(protocol, one, other)| Port::Range { protocol, first: one.min(other), last: one.max(other) }),
        4 => (protocol(), select(&PORTS[..])).prop_map(|(protocol, port)| Port::Range { protocol, first: port, last: port }),
        4 => (protocol(), text(&PORT_NAMES)).prop_map(|(protocol, name)| Port::Named { protocol, name }),
        2 => (protocol(), text(&PORT_NAMES), select(&PORTS[..]), select(&PORTS[..])).prop_map(|(protocol, name, one, other)| {
            Port::NamedWithin { protocol, name, first: one.min(other), last: one.max(other) }
        }),
        1 => Just(Port::Invalid),
    ]
}

/// A selector of pods.
pub fn pod_selector() -> impl Strategy<Value = Selector> {
    selector(requirement(&KEYS, &VALUES).boxed())
}

/// A selector of namespaces, sometimes by name.
pub fn namespace_selector() -> impl Strategy<Value = Selector> {
    selector(
        Union::new_weighted(vec![
            (2, requirement(&KEYS, &VALUES).boxed()),
            (1, requirement(&[NAMESPACE_NAME_LABEL], &NAMESPACES).boxed()),
        ])
        .boxed(),
    )
}

fn selector(requirement: BoxedStrategy<Requirement>) -> impl Strategy<Value = Selector> {
    prop_oneof![
        5 => Just(Selector::everything()),
        14 => vec(requirement, 1..=2).prop_map(Selector::Requirements),
        1 => Just(Selector::Invalid),
    ]
}

fn requirement(
    keys: &'static [&str],
    values: &'static [&str],
) -> impl Strategy<Value = Requirement> {
    let some = || vec(text(values), 0..=2);
    let operator = prop_oneof![
        4 => some().prop_map(Operator::In),
        2 => some().prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    (text(keys), operator).prop_map(|(key, operator)| Requirement { key, operator })
}

fn text(of: &'static [&str]) -> impl Strategy<Value = String> {
    select(of).prop_map(str::to_owned)
}
