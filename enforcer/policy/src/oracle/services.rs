// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an address and port stand for before the node translates them (items 18, 36, 38; `docs/adr/0060`).
//!
//! A Service port stands for endpoints, and so do a NodePort and a hostPort at the own node. Where several Services
//! claim one address and port, nobody knows which of them the node takes: each must be allowed.

use std::net::IpAddr;

use super::{Policy, is_node, is_node_address, is_tunnel_to_node, peer_matches, pod_at};
use crate::connection::{Connection, Direction, Transport};
use crate::model::{
    Endpoint, EndpointState, ExternalAddresses, HostPort, ObjectName, Peer, PodReference, Protocol,
    Rule, SCOPES, Service, ServiceEgress, ServicePort, TrafficPolicy, World,
};

/// Whether an isolated pod may open the connection.
pub(super) fn allows(policy: &Policy<'_>, connection: &Connection) -> bool {
    let world = policy.world;
    let literally = policy.allows_literally(connection);
    let claims = claims(world, connection);
    // The author of a Service would lift what tunnels need, for all pods.
    let is_led = claims.iter().any(|claim| claim.leads_into_tunnel(policy));
    if policy
        .rules
        .iter()
        .any(|rule| rule.peers.is_empty() && rule.ports.is_empty())
    {
        return literally && !is_led;
    }
    let mut rules = policy.rules.iter();
    let by_name = !is_led && rules.any(|rule| speaks_of(policy, rule, connection));
    let by_endpoints = claims.iter().all(|claim| claim.is_allowed(policy));
    if is_cluster_address(world, connection.peer) {
        return by_name || !claims.is_empty() && by_endpoints;
    }
    if claims.is_empty() {
        return literally;
    }
    if is_node_address(world, connection.peer) {
        return literally && (by_name || by_endpoints);
    }
    if needs_its_address(world, connection) {
        literally && by_endpoints
    } else {
        by_name || by_endpoints
    }
}

/// Whether an address is the cluster address of a Service.
pub(super) fn is_cluster_address(world: &World, address: IpAddr) -> bool {
    world
        .services
        .iter()
        .any(|(_, service)| service.cluster_addresses.contains(&address))
}

/// Whether the connection goes to something that nodes translate.
pub fn is_redirected(world: &World, connection: &Connection) -> bool {
    connection.direction == Direction::Egress && !claims(world, connection).is_empty()
}

/// Whether an address may stand for something else: Services have it, or it is the own node's.
pub fn may_be_redirected(world: &World, address: IpAddr) -> bool {
    let is_external = |service: &Service| {
        service.external_addresses.contains(&address)
            || service.balancer_addresses.contains(&address)
    };
    is_node_address(world, address)
        || is_cluster_address(world, address)
        || world.services.values().any(|service| is_external(service))
}

/// Whether a connection that nodes translate needs its very address allowed: not one that a controller of the cluster gave
/// a Service, unless a Service names it itself.
pub fn needs_its_address(world: &World, connection: &Connection) -> bool {
    let address = connection.peer;
    if is_cluster_address(world, address) {
        return false;
    }
    let mut services = world.services.values();
    let is_named = services.any(|service| service.external_addresses.contains(&address));
    let mut services = world.services.values();
    let is_given = services.any(|service| service.balancer_addresses.contains(&address));
    is_node_address(world, address)
        || match world.service_options.external {
            ExternalAddresses::Literal => is_named || !is_given,
            ExternalAddresses::Translated => false,
        }
}

/// Whether an isolated pod may open the connection as far as the address itself goes and the endpoints that there are. Only
/// where it may not a denial cuts what is established: what went away is not denied.
pub(super) fn spares(
    policy: &Policy<'_>,
    connection: &Connection,
    needs_its_address: bool,
) -> bool {
    let claims = claims(policy.world, connection);
    let mut left = claims.iter().filter(|claim| !claim.targets.is_empty());
    (!needs_its_address || policy.allows_literally(connection))
        && left.all(|claim| claim.is_allowed(policy))
}

/// Whether a rule allows this very address, whatever stands behind it: by a block of it alone, by one inside the
/// ranges of Services, or by a list.
fn speaks_of(policy: &Policy<'_>, rule: &Rule, connection: &Connection) -> bool {
    let address = connection.peer;
    let names_it = rule.peers.iter().any(|peer| match peer {
        Peer::Block { cidr, .. } => {
            let is_alone = cidr.prefix_len() == cidr.max_prefix_len();
            let ranges = &policy.world.service_options.ranges;
            (is_alone || ranges.iter().any(|range| range.contains(cidr)))
                && peer_matches(policy.world, policy.subject, peer, address)
        }
        Peer::Listed(_) => peer_matches(policy.world, policy.subject, peer, address),
        Peer::Pods { .. } | Peer::Invalid => false,
    });
    names_it && (rule.ports.is_empty() || policy.ports_match(rule, connection))
}

/// The endpoints that one Service, or one pod with a hostPort, has for an address and port.
struct Claim {
    protocol: Protocol,
    targets: Vec<Target>,
}

struct Target {
    address: IpAddr,
    port: u16,
    known: Known,
}

/// Whether it is known who an endpoint is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Yes, or it does not say that it is a pod.
    Yes,
    /// It says that it is a pod, and nobody is known at its address.
    NotYet,
    /// It says that it is a pod, and another one is known at its address.
    Contradicted,
}

impl Claim {
    /// What becomes of a connection that this endpoint is chosen for.
    fn connection_to(&self, target: &Target) -> Connection {
        Connection {
            direction: Direction::Egress,
            peer: target.address,
            transport: Transport::Port(self.protocol, target.port),
        }
    }

    /// Whether an endpoint is a tunnel at a node that no rule names.
    fn leads_into_tunnel(&self, policy: &Policy<'_>) -> bool {
        self.targets.iter().any(|target| {
            let connection = self.connection_to(target);
            is_tunnel_to_node(policy.world, &connection) && !policy.allows_literally(&connection)
        })
    }

    /// An endpoint of which nobody is known is judged by its address, as anything that may be there.
    fn is_allowed(&self, policy: &Policy<'_>) -> bool {
        let (contradicted, counting): (Vec<&Target>, Vec<&Target>) = self
            .targets
            .iter()
            .partition(|target| target.known == Known::Contradicted);
        let is_contradicted = !contradicted.is_empty();
        let mut allowed = counting
            .iter()
            .map(|target| policy.allows_literally(&self.connection_to(target)));
        match policy.world.service_options.egress {
            ServiceEgress::All => {
                !is_contradicted && !counting.is_empty() && allowed.all(|allowed| allowed)
            }
            ServiceEgress::Any => allowed.any(|allowed| allowed),
        }
    }
}

fn claims(world: &World, connection: &Connection) -> Vec<Claim> {
    let Transport::Port(protocol, number) = connection.transport else {
        return Vec::new();
    };
    let address = connection.peer;
    let at_own_node = is_node_address(world, address);
    let mut claims = Vec::new();
    for (name, service) in &world.services {
        let ports = service
            .ports
            .iter()
            .filter(|port| port.protocol == protocol);
        for port in ports {
            let mut claim = |traffic| {
                let targets = endpoints(world, name, port, traffic, address.is_ipv4())
                    .into_iter()
                    .map(|(endpoint, port)| target(world, endpoint, port))
                    .collect();
                claims.push(Claim { protocol, targets });
            };
            if port.number == number && service.cluster_addresses.contains(&address) {
                claim(service.internal_traffic);
            }
            let is_external = service.external_addresses.contains(&address)
                || service.balancer_addresses.contains(&address);
            if port.number == number && is_external {
                claim(TrafficPolicy::Cluster);
            }
            if port.node_port == Some(number) && at_own_node && has_family(service, address) {
                claim(TrafficPolicy::Cluster);
            }
        }
    }
    for host_port in host_ports(world) {
        let HostPort {
            protocol: of,
            number: at,
            target: port,
            ..
        } = *host_port.port;
        if host_port.host == address && (of, at) == (protocol, number) {
            let targets = host_port.addresses.into_iter().map(|address| Target {
                address,
                port,
                known: Known::Yes,
            });
            claims.push(Claim {
                protocol,
                targets: targets.collect(),
            });
        }
    }
    claims
}

/// A port of an address of the own node that leads to a pod: to all of its addresses of that family, of which there is one.
struct OnNode<'a> {
    host: IpAddr,
    port: &'a HostPort,
    addresses: Vec<IpAddr>,
}

fn host_ports(world: &World) -> Vec<OnNode<'_>> {
    let mut ports = Vec::new();
    for pod in world.pods.values().filter(|pod| pod.is_selectable()) {
        let is_elsewhere =
            pod.node.is_some() && world.node_name.is_some() && pod.node != world.node_name;
        for (port, host) in pod
            .host_ports
            .iter()
            .flat_map(|port| world.node_addresses.iter().map(move |host| (port, *host)))
        {
            let addresses: Vec<IpAddr> = pod
                .addresses
                .iter()
                .copied()
                .filter(|address| address.is_ipv4() == host.is_ipv4())
                .collect();
            let is_here = port.address.is_none_or(|wanted| wanted == host);
            if !is_elsewhere && is_here && is_node_address(world, host) && !addresses.is_empty() {
                ports.push(OnNode {
                    host,
                    port,
                    addresses,
                });
            }
        }
    }
    ports
}

/// Whether a Service has NodePorts in the family of `address`. One without cluster addresses may have.
fn has_family(service: &Service, address: IpAddr) -> bool {
    let of_cluster = &service.cluster_addresses;
    of_cluster.is_empty()
        || of_cluster
            .iter()
            .any(|of_service| of_service.is_ipv4() == address.is_ipv4())
}

/// The endpoints that kube-proxy could choose, with their target ports: those that are ready, else those that go
/// but still serve; of this node only, if so wanted and its name is known.
fn endpoints<'a>(
    world: &'a World,
    service: &ObjectName,
    port: &ServicePort,
    traffic: TrafficPolicy,
    ipv4: bool,
) -> Vec<(&'a Endpoint, u16)> {
    let mut all = Vec::new();
    for (name, slice) in &world.endpoint_slices {
        if name.namespace != service.namespace || slice.service.as_ref() != Some(&service.name) {
            continue;
        }
        for number in slice
            .ports
            .iter()
            .filter(|of_slice| of_slice.name == port.name && of_slice.protocol == port.protocol)
            .map(|of_slice| of_slice.number)
        {
            all.extend(slice.endpoints.iter().map(|endpoint| (endpoint, number)));
        }
    }
    all.retain(|(endpoint, _)| {
        let is_near = match traffic {
            TrafficPolicy::Cluster => true,
            TrafficPolicy::Local => world.node_name.is_none() || endpoint.node == world.node_name,
        };
        is_near && endpoint.address.is_ipv4() == ipv4
    });
    let having = |state| {
        let found = all
            .iter()
            .filter(move |(endpoint, _)| endpoint.state == state);
        found.copied().collect::<Vec<_>>()
    };
    let ready = having(EndpointState::Ready);
    if ready.is_empty() {
        having(EndpointState::Terminating)
    } else {
        ready
    }
}

fn target(world: &World, endpoint: &Endpoint, port: u16) -> Target {
    let known = match (&endpoint.pod, pod_at(world, endpoint.address)) {
        (None, _) => Known::Yes,
        (Some(said), Some((name, pod))) if is(said, name, pod.uid.as_ref()) => Known::Yes,
        (Some(_), Some(_)) => Known::Contradicted,
        (Some(said), None) => {
            let pod = world.pods.get(&said.name);
            let of_a_node = pod.is_some_and(|pod| {
                pod.host_network
                    && pod.addresses.contains(&endpoint.address)
                    && is(said, &said.name, pod.uid.as_ref())
            });
            if of_a_node { Known::Yes } else { Known::NotYet }
        }
    };
    Target {
        address: endpoint.address,
        port,
        known,
    }
}

/// Whether the pod of this name and UID is the one that the endpoint says it is.
fn is(said: &PodReference, name: &ObjectName, uid: Option<&crate::model::PodUid>) -> bool {
    let namesakes = match (&said.uid, uid) {
        (Some(said), Some(uid)) => said != uid,
        (Some(_) | None, None) | (None, Some(_)) => false,
    };
    said.name == *name && !namesakes
}

/// Whom a connection is closed to, because nodes lead it into a tunnel that ends at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closed {
    /// To none.
    Never,
    /// Pods that no policy isolates.
    ToOpen,
    /// All: what it leads to is translated again, there or at another node.
    ToAll,
}

/// See [`Closed`].
pub(super) fn closed(world: &World, connection: &Connection) -> Closed {
    let Transport::Port(Protocol::Udp, number) = connection.transport else {
        return Closed::Never;
    };
    let links = links(world);
    let mut leading: Vec<Place> = Vec::new();
    loop {
        let more: Vec<Place> = links
            .iter()
            .filter(|Link { way, target, .. }| {
                let is_tunnel = tunnel_at(world, *target) != Closed::Never;
                !leading.contains(way) && (is_tunnel || leads_on(world, &leading, *target))
            })
            .map(|link| link.way)
            .collect();
        if more.is_empty() {
            break;
        }
        leading.extend(more);
    }
    let of_way = |wanted: Place| {
        let targets = links.iter().filter(|link| link.way == wanted && link.here);
        let of_each = targets.map(|link| {
            if leads_on(world, &leading, link.target) {
                Closed::ToAll
            } else {
                tunnel_at(world, link.target)
            }
        });
        of_each.max().unwrap_or(Closed::Never)
    };
    let at_nodes = (unspecified(connection.peer), number);
    let as_node = if is_node_address(world, connection.peer) {
        of_way(at_nodes)
    } else if is_node(world, connection.peer) && leading.contains(&at_nodes) {
        Closed::ToAll
    } else {
        Closed::Never
    };
    of_way((connection.peer, number)).max(as_node)
}

/// Whether nodes lead the connection into a tunnel that ends at one of them.
pub fn is_led_into_tunnel(world: &World, connection: &Connection) -> bool {
    connection.direction == Direction::Egress && closed(world, connection) != Closed::Never
}

/// An address and a UDP port; the unspecified address stands for every node's.
type Place = (IpAddr, u16);

/// What leads datagrams where: an address and port of a Service, or a NodePort, to an endpoint that some node may choose; a
/// port of the own node to a pod.
struct Link {
    way: Place,
    target: Place,
    /// Whether this node may.
    here: bool,
}

fn links(world: &World) -> Vec<Link> {
    let mut links = Vec::new();
    for OnNode {
        host,
        port,
        addresses,
    } in host_ports(world)
    {
        if port.protocol == Protocol::Udp {
            links.extend(addresses.into_iter().map(|address| Link {
                way: (host, port.number),
                target: (address, port.target),
                here: true,
            }));
        }
    }
    for (name, service) in &world.services {
        for port in service
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Udp)
        {
            let of_cluster = service.cluster_addresses.iter();
            let elsewhere = service.external_addresses.iter();
            let addresses = of_cluster
                .chain(elsewhere)
                .chain(&service.balancer_addresses);
            let mut ways: Vec<Place> = addresses.map(|address| (*address, port.number)).collect();
            for family in [
                unspecified([0, 0, 0, 0].into()),
                unspecified([0_u16; 8].into()),
            ] {
                let number = port.node_port.filter(|_| has_family(service, family));
                ways.extend(number.map(|number| (family, number)));
            }
            for (slice_name, slice) in &world.endpoint_slices {
                let is_its = slice_name.namespace == name.namespace
                    && slice.service.as_ref() == Some(&name.name);
                if is_its && slice.is_closed {
                    // Its endpoints are unknown.
                    links.extend(ways.iter().map(|way| Link {
                        way: *way,
                        target: (unspecified(way.0), 0),
                        here: true,
                    }));
                }
                for of_slice in slice.ports.iter().filter(|of_slice| {
                    is_its && of_slice.name == port.name && of_slice.protocol == port.protocol
                }) {
                    for endpoint in &slice.endpoints {
                        if endpoint.state == EndpointState::Unusable {
                            continue;
                        }
                        let target = (endpoint.address, of_slice.number);
                        for way in ways
                            .iter()
                            .filter(|way| way.0.is_ipv4() == target.0.is_ipv4())
                        {
                            let is_cluster = service.cluster_addresses.contains(&way.0);
                            let traffic = if is_cluster {
                                service.internal_traffic
                            } else {
                                TrafficPolicy::Cluster
                            };
                            let chosen = endpoints(world, name, port, traffic, way.0.is_ipv4());
                            let here = chosen
                                .iter()
                                .any(|(endpoint, number)| (endpoint.address, *number) == target);
                            links.push(Link {
                                way: *way,
                                target,
                                here,
                            });
                        }
                    }
                }
            }
        }
    }
    links
}

/// Whom a tunnel at a place is closed to, if a node takes what is sent there.
fn tunnel_at(world: &World, (address, port): Place) -> Closed {
    let mut scopes = SCOPES.iter().chain(&world.node_scopes);
    if port == 0 {
        Closed::ToAll
    } else if !Transport::Port(Protocol::Udp, port).is_tunnel(&world.tunnel_ports) {
        Closed::Never
    } else if is_node(world, address) {
        Closed::ToOpen
    } else if scopes.any(|scope| scope.contains(&address)) {
        Closed::ToAll
    } else {
        Closed::Never
    }
}

fn leads_on(world: &World, leading: &[Place], (address, port): Place) -> bool {
    leading.contains(&(address, port))
        || (is_node(world, address) && leading.contains(&(unspecified(address), port)))
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => [0, 0, 0, 0].into(),
        IpAddr::V6(_) => [0_u16; 8].into(),
    }
}
