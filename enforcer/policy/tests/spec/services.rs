// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Items 18 and 38 (`docs/adr/0060`): what a Service's address stands for.

use std::sync::Arc;

use podgate_policy::connection::Direction::{Egress, Ingress};
use podgate_policy::connection::Verdict::{self, Allow, Deny};
use podgate_policy::connection::{Baseline, Transport};
use podgate_policy::model::{
    Endpoint, EndpointSlice, EndpointState, ExternalAddresses, HostPort, NamedPort, ObjectName,
    Pod, PodReference, PodUid, Port, Protocol, Rule, Selector, Service, ServiceEgress, ServicePort,
    TrafficPolicy, World,
};

use crate::fixture::*;

const CLUSTER: &str = "10.96.0.1";
const CLUSTER_V6: &str = "fd96::1";
const EXTERNAL: &str = "203.0.113.1";

/// Service `x/s`: port 80, NodePort 30080, of pods `x/db` and `x/bare` on their port 8080.
fn with_service(policies: impl IntoIterator<Item = podgate_policy::model::NetworkPolicy>) -> World {
    let mut world = world_with(policies);
    world.node_name = Some("here".into());
    let service = Service {
        cluster_addresses: [CLUSTER, CLUSTER_V6].map(|a| a.parse().unwrap()).into(),
        external_addresses: vec![EXTERNAL.parse().unwrap()],
        balancer_addresses: Vec::new(),
        ports: vec![ServicePort {
            name: "web".into(),
            protocol: Protocol::Tcp,
            number: 80,
            node_port: Some(30080),
        }],
        internal_traffic: TrafficPolicy::Cluster,
    };
    world
        .services
        .insert(ObjectName::new("x", "s"), Arc::new(service));
    endpoints(
        &mut world,
        [
            endpoint(X_DB, "db"),
            endpoint(X_BARE, "bare"),
            endpoint(X_DB_V6, "db"),
        ],
    );
    world
}

fn endpoints(world: &mut World, endpoints: impl IntoIterator<Item = Endpoint>) {
    let slice = EndpointSlice {
        service: Some("s".into()),
        ports: vec![NamedPort {
            name: "web".into(),
            protocol: Protocol::Tcp,
            number: 8080,
        }],
        endpoints: endpoints.into_iter().collect(),
        is_closed: false,
    };
    world
        .endpoint_slices
        .insert(ObjectName::new("x", "s-1"), Arc::new(slice));
}

fn service(world: &mut World, change: impl FnOnce(&mut Service)) {
    let service = world.services.get_mut(&ObjectName::new("x", "s")).unwrap();
    change(Arc::make_mut(service));
}

fn endpoint(address: &str, pod: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        state: EndpointState::Ready,
        pod: Some(PodReference {
            name: ObjectName::new("x", pod),
            uid: None,
        }),
        node: Some("here".into()),
    }
}

fn to(peer: podgate_policy::model::Peer, port: u16) -> Rule {
    Rule {
        peers: vec![peer],
        ports: vec![range(Protocol::Tcp, port, port)],
    }
}

fn db() -> podgate_policy::model::Peer {
    own_pods(label("app", "db"))
}

fn everyone() -> podgate_policy::model::Peer {
    own_pods(Selector::everything())
}

#[track_caller]
fn assert_egress(world: &World, peer: &str, transport: Transport, expected: Verdict) {
    assert_eq!(
        judge(world, Egress, peer, transport),
        expected,
        "{peer} {transport:?}"
    );
}

#[test]
fn a_service_port_is_judged_as_the_target_port_of_its_endpoints() {
    let by_target = with_service([egress([to(everyone(), 8080)])]);
    assert_egress(&by_target, CLUSTER, tcp(80), Allow);
    assert_egress(&by_target, CLUSTER_V6, tcp(80), Allow);
    assert_egress(&by_target, CLUSTER, tcp(8080), Deny);
    assert_egress(&by_target, CLUSTER, udp(80), Deny);
    let by_service_port = with_service([egress([to(everyone(), 80)])]);
    assert_egress(&by_service_port, CLUSTER, tcp(80), Deny);
}

#[test]
fn a_port_named_in_a_rule_is_that_of_each_endpoint() {
    let rule = Rule {
        peers: vec![],
        ports: vec![port_called(Protocol::Tcp, "http")],
    };
    let mut world = with_service([egress([rule])]);
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    endpoints(&mut world, [endpoint(X_DB, "db")]);
    assert_egress(&world, CLUSTER, tcp(80), Allow);
}

/// Every endpoint must be allowed, unless the options say that one is enough.
#[test]
fn every_endpoint_must_be_allowed_unless_one_is_enough() {
    let mut world = with_service([egress([to(db(), 8080)])]);
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    assert_egress(&world, CLUSTER_V6, tcp(80), Allow);
    world.service_options.egress = ServiceEgress::Any;
    assert_egress(&world, CLUSTER, tcp(80), Allow);
}

#[test]
fn a_service_without_endpoints_or_without_the_port_is_denied() {
    let mut world = with_service([egress([to(everyone(), 8080)])]);
    endpoints(&mut world, []);
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    let open = with_service([egress([with_ports([Port::All(Protocol::Tcp)])])]);
    assert_egress(&open, CLUSTER, tcp(80), Allow);
    assert_egress(&open, CLUSTER, tcp(81), Deny);
}

/// Whoever may write EndpointSlices may name any address there, and a pod that never comes.
#[test]
fn an_endpoint_whose_pod_nobody_knows_is_judged_by_its_address() {
    let mut world = with_service([egress([to(db(), 8080)])]);
    let new = endpoint("10.0.0.200", "new");
    for endpoints_now in [vec![endpoint(X_DB, "db"), new.clone()], vec![new.clone()]] {
        endpoints(&mut world, endpoints_now);
        assert_egress(&world, CLUSTER, tcp(80), Deny);
    }
    endpoints(&mut world, [endpoint(X_DB, "db"), new.clone()]);
    let any = World {
        service_options: podgate_policy::model::ServiceOptions {
            egress: ServiceEgress::Any,
            ..world.service_options.clone()
        },
        ..world.clone()
    };
    assert_egress(&any, CLUSTER, tcp(80), Allow);
    let pod = Pod {
        labels: [("app".to_owned(), "db".to_owned())].into(),
        addresses: vec!["10.0.0.200".parse().unwrap()],
        ..Pod::default()
    };
    world
        .pods
        .insert(ObjectName::new("x", "new"), Arc::new(pod));
    assert_egress(&world, CLUSTER, tcp(80), Allow);
    let mut by_address = with_service([egress([to(block("10.0.0.0/24", &[]), 8080)])]);
    endpoints(&mut by_address, [new]);
    assert_egress(&by_address, CLUSTER, tcp(80), Allow);
}

#[test]
fn an_endpoint_at_another_pods_address_denies() {
    let mut world = with_service([egress([to(everyone(), 8080)])]);
    endpoints(&mut world, [endpoint(X_DB, "bare")]);
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    let mut other = endpoint(X_DB, "db");
    other.pod.as_mut().unwrap().uid = Some(PodUid("new".into()));
    let name = ObjectName::new("x", "db");
    Arc::make_mut(world.pods.get_mut(&name).unwrap()).uid = Some(PodUid("old".into()));
    endpoints(&mut world, [other.clone()]);
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    Arc::make_mut(world.pods.get_mut(&name).unwrap()).uid = Some(PodUid("new".into()));
    assert_egress(&world, CLUSTER, tcp(80), Allow);
}

#[test]
fn endpoints_that_go_count_only_where_none_is_ready() {
    let going = |address, pod| Endpoint {
        state: EndpointState::Terminating,
        ..endpoint(address, pod)
    };
    let mut world = with_service([egress([to(db(), 8080)])]);
    endpoints(&mut world, [endpoint(X_DB, "db"), going(X_BARE, "bare")]);
    assert_egress(&world, CLUSTER, tcp(80), Allow);
    endpoints(&mut world, [going(X_DB, "db"), going(X_BARE, "bare")]);
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    let unusable = Endpoint {
        state: EndpointState::Unusable,
        ..endpoint(X_BARE, "bare")
    };
    endpoints(&mut world, [going(X_DB, "db"), unusable]);
    assert_egress(&world, CLUSTER, tcp(80), Allow);
}

#[test]
fn a_service_without_a_selector_stands_for_addresses() {
    let bare = Endpoint {
        pod: None,
        ..endpoint(STRANGER, "")
    };
    for (rule, expected) in [
        (to(block("198.51.100.0/24", &[]), 8080), Allow),
        (to(everyone(), 8080), Deny),
    ] {
        let mut world = with_service([egress([rule])]);
        endpoints(&mut world, [bare.clone()]);
        assert_egress(&world, CLUSTER, tcp(80), expected);
    }
}

#[test]
fn a_block_allows_a_service_address_only_if_it_speaks_of_it() {
    for (cidr, expected) in [
        ("10.96.0.1/32", Allow),
        ("10.96.0.0/24", Deny),
        ("0.0.0.0/0", Deny),
    ] {
        let mut world = with_service([egress([to(block(cidr, &[]), 80)])]);
        endpoints(&mut world, []);
        assert_egress(&world, CLUSTER, tcp(80), expected);
        assert_egress(&world, CLUSTER, tcp(81), Deny);
    }
    let mut world = with_service([egress([to(block("10.96.0.0/24", &[]), 80)])]);
    world.service_options.ranges = vec!["10.96.0.0/16".parse().unwrap()];
    assert_egress(&world, CLUSTER, tcp(80), Allow);
    let mut wider = with_service([egress([to(block("10.0.0.0/8", &[]), 80)])]);
    wider.service_options.ranges = vec!["10.96.0.0/16".parse().unwrap()];
    assert_egress(&wider, CLUSTER, tcp(80), Deny);
}

#[test]
fn an_external_address_needs_both_itself_and_its_endpoints() {
    let itself = || to(block("203.0.113.0/24", &[]), 80);
    let endpoints = || to(everyone(), 8080);
    for (rules, expected) in [
        (vec![itself()], Deny),
        (vec![endpoints()], Deny),
        (vec![itself(), endpoints()], Allow),
    ] {
        assert_egress(&with_service([egress(rules)]), EXTERNAL, tcp(80), expected);
    }
    let mut owned = with_service([egress([endpoints()])]);
    owned.service_options.external = ExternalAddresses::Translated;
    assert_egress(&owned, EXTERNAL, tcp(80), Allow);
    let other_port = with_service([egress([to(block("203.0.113.0/24", &[]), 22)])]);
    assert_egress(&other_port, EXTERNAL, tcp(22), Allow);
}

#[test]
fn a_load_balancers_address_needs_its_endpoints_only() {
    let itself = || to(block("203.0.113.0/24", &[]), 80);
    let endpoints = || to(everyone(), 8080);
    let given = |rules: Vec<Rule>| {
        let mut world = with_service([egress(rules)]);
        let name = ObjectName::new("x", "s");
        let service = world.services.get_mut(&name).unwrap();
        let service = std::sync::Arc::make_mut(service);
        service.balancer_addresses = std::mem::take(&mut service.external_addresses);
        world
    };
    for (rules, expected) in [
        (vec![itself()], Deny),
        (vec![endpoints()], Allow),
        (vec![itself(), endpoints()], Allow),
        (vec![], Deny),
    ] {
        assert_egress(&given(rules), EXTERNAL, tcp(80), expected);
    }
    // What it does not serve is the address itself.
    assert_egress(&given(vec![to(everyone(), 22)]), EXTERNAL, tcp(22), Deny);
    // Another Service that names it for itself (CVE-2020-8554) makes it an address that may be anybody's.
    let mut world = given(vec![endpoints()]);
    let other = Service {
        external_addresses: vec![EXTERNAL.parse().unwrap()],
        ..Service::default()
    };
    world
        .services
        .insert(ObjectName::new("y", "other"), std::sync::Arc::new(other));
    assert_egress(&world, EXTERNAL, tcp(80), Deny);
}

#[test]
fn under_a_local_policy_only_endpoints_of_this_node_count() {
    let far = Endpoint {
        node: Some("there".into()),
        ..endpoint(X_BARE, "bare")
    };
    let mut world = with_service([egress([
        to(db(), 8080),
        to(block("203.0.113.1/32", &[]), 80),
    ])]);
    endpoints(&mut world, [endpoint(X_DB, "db"), far]);
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    service(&mut world, |s| s.internal_traffic = TrafficPolicy::Local);
    assert_egress(&world, CLUSTER, tcp(80), Allow);
    assert_egress(&world, EXTERNAL, tcp(80), Deny);
    world.node_name = None;
    assert_egress(&world, CLUSTER, tcp(80), Deny);
}

/// A NodePort of the own node stands for its endpoints, and other ports are the node's.
#[test]
fn a_node_port_of_the_own_node_stands_for_its_endpoints() {
    let mut world = with_service([egress([to(db(), 8080)])]);
    assert_egress(&world, NODE, tcp(30080), Deny);
    assert_egress(&world, NODE, tcp(30081), Allow);
    assert_egress(&world, NODE, udp(30080), Allow);
    endpoints(&mut world, [endpoint(X_DB, "db")]);
    assert_egress(&world, NODE, tcp(30080), Allow);
    assert_egress(&world, X_HOST, tcp(30080), Deny);
}

#[test]
fn a_host_port_of_the_own_node_stands_for_its_pod() {
    let mut world = world_with([egress([to(db(), 8080)])]);
    world.node_name = Some("here".into());
    let with_port = |pod: &mut Pod, target| {
        pod.host_ports = vec![HostPort {
            address: None,
            protocol: Protocol::Tcp,
            number: 8000,
            target,
        }];
    };
    let name = ObjectName::new("x", "db");
    with_port(Arc::make_mut(world.pods.get_mut(&name).unwrap()), 8080);
    assert_egress(&world, NODE, tcp(8000), Allow);
    with_port(Arc::make_mut(world.pods.get_mut(&name).unwrap()), 8081);
    assert_egress(&world, NODE, tcp(8000), Deny);
    Arc::make_mut(world.pods.get_mut(&name).unwrap()).node = Some("there".into());
    assert_egress(&world, NODE, tcp(8000), Allow);
}

/// A wide block of the ranges of Services names no address that the node has as a route of its own, too.
#[test]
fn a_block_of_services_names_no_scope_inside_it() {
    let node = NODE.parse().unwrap();
    let wide = ipnet::IpNet::new(node, 24).unwrap().trunc();
    let mut world = with_service([egress([with_peers([block(&wide.to_string(), &[])])])]);
    world.service_options.ranges = vec![wide];
    assert_egress(&world, NODE, tcp(30080), Allow);
    world.node_scopes.insert(node.into());
    assert_egress(&world, NODE, tcp(30080), Deny);
    assert_egress(&world, NODE, tcp(30081), Allow);
}

/// A cluster address is no address of the node, whichever interface has it.
#[test]
fn a_cluster_address_is_never_an_address_of_the_node() {
    let mut world = with_service([egress([])]);
    world.node_addresses.push(CLUSTER.parse().unwrap());
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    assert_egress(&world, CLUSTER, tcp(10250), Deny);
}

#[test]
fn a_headless_service_changes_nothing() {
    let mut world = with_service([egress([to(everyone(), 8080)])]);
    service(&mut world, |s| *s = Service::default());
    assert_egress(&world, CLUSTER, tcp(80), Deny);
    assert_egress(&world, X_DB, tcp(8080), Allow);
}

/// A pod reaches itself through a Service as any pod with its labels does.
#[test]
fn a_pod_reaches_itself_through_a_service_by_its_labels() {
    let mut world = with_service([egress([to(own_pods(label("app", "web")), 8080)])]);
    endpoints(&mut world, [endpoint(X_WEB, "web")]);
    assert_egress(&world, CLUSTER, tcp(80), Allow);
}

/// Services say nothing of ingress, nor of pods that are not isolated.
#[test]
fn services_change_neither_ingress_nor_unisolated_pods() {
    let world = with_service([ingress([to(block("10.96.0.0/16", &[]), 80)])]);
    assert_eq!(judge(&world, Ingress, CLUSTER, tcp(80)), Allow);
    assert_egress(&world, CLUSTER, tcp(9999), Allow);
    let strict = with_service([]);
    let verdict = judge_pod(&strict, "web", Baseline::Deny, Egress, CLUSTER, tcp(80));
    assert_eq!(verdict, Deny);
}
