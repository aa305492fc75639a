// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Single cases, each with its story.

use std::net::IpAddr;
use std::sync::Arc;

use podgate_abi::{Address, Direction, RulesetId, Slot};
use podgate_policy::compile::ruleset::Ruleset;
use podgate_policy::compile::{SubjectRulesets, compile_subject};
use podgate_policy::connection::{Baseline, Connection, Subject, Transport};
use podgate_policy::model::{
    Endpoint, EndpointSlice, EndpointState, Labels, NamedPort, Namespace, Namespaces,
    NetworkPolicy, ObjectName, Operator, Peer, Pod, Port, Protocol, Requirement, Rule, Selector,
    Service, ServicePort, World,
};

use super::bench::AMPLE;
use crate::plan::host::frames::{Part, own_addresses, passes};
use crate::plan::host::{Flows, HostTables, Step};
use crate::plan::{Plan, PlanError, Planner, Rulesets, Table, Write};

const SLOT: Slot = Slot(1);

fn labeled(value: &str) -> Labels {
    Labels::from([("app".to_owned(), value.to_owned())])
}

fn with_label(value: &str) -> Peer {
    Peer::Pods {
        namespaces: Namespaces::Own,
        pods: Selector::Requirements(vec![Requirement {
            key: "app".into(),
            operator: Operator::In(vec![value.into()]),
        }]),
    }
}

fn block(cidr: &str) -> Peer {
    Peer::Block {
        cidr: cidr.parse().expect("a block"),
        except: Vec::new(),
    }
}

/// A policy for every pod of its namespace, for ingress and egress alike.
fn allowing(peers: Vec<Peer>, ports: Vec<Port>) -> NetworkPolicy {
    let rules = vec![Rule { peers, ports }];
    NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: true,
        isolates_egress: true,
        ingress: rules.clone(),
        egress: rules,
    }
}

/// A namespace with the pod that is judged, a pod labeled `1` at 10.0.0.1 and one labeled `2` at 10.0.0.2.
fn world(policy: NetworkPolicy) -> World {
    let mut world = World::default();
    let namespace = Namespace::new("x", Labels::new());
    world.namespaces.insert("x".into(), namespace);
    for value in ["1", "2"] {
        let pod = Pod {
            labels: labeled(value),
            addresses: vec![format!("10.0.0.{value}").parse().expect("an address")],
            ..Pod::default()
        };
        world
            .pods
            .insert(ObjectName::new("x", value), Arc::new(pod));
    }
    world
        .policies
        .insert(ObjectName::new("x", "p"), Arc::new(policy));
    world
}

fn rulesets(world: &World) -> SubjectRulesets {
    let subject = Subject::new(
        ObjectName::new("x", "judged"),
        &Pod::default(),
        Baseline::Allow,
    );
    compile_subject(world, &subject)
}

fn tables() -> HostTables {
    let tables = HostTables::new([(SLOT, own_addresses(SLOT))]);
    tables.attach(SLOT, podgate_abi::RulesetId::of(Baseline::Allow));
    tables
}

fn write(tables: &HostTables, planner: &mut Planner, plan: Plan) {
    for write in plan.writes() {
        tables.execute(&Step::Write(write.clone()));
    }
    planner.commit(plan);
}

/// Executes a plan, and what waits for a grace period then.
fn execute(tables: &HostTables, planner: &mut Planner, plan: Plan) {
    write(tables, planner, plan);
    while planner.waits_for_grace() {
        planner.grace_begins();
        let plan = planner.after_grace().expect("room");
        write(tables, planner, plan);
    }
}

fn put_in_force(tables: &HostTables, planner: &mut Planner, world: &World) {
    let plan = planner.facts_change(world).expect("room");
    execute(tables, planner, plan);
    let plan = planner
        .policy_change(&Rulesets::unit(SLOT, Arc::new(rulesets(world))))
        .expect("room");
    execute(tables, planner, plan);
}

fn egress_passes(tables: &HostTables, peer: &str) -> bool {
    let connection = Connection {
        direction: Direction::Egress,
        peer: peer.parse().expect("an address"),
        transport: Transport::Port(Protocol::Tcp, 80),
    };
    passes(tables, SLOT, &connection, Part::Opening)
}

/// Attack 28: a NodePort that leads into a tunnel has rows at the own node's addresses only. Flows to what becomes another
/// node's address, or what this node takes for itself, are judged again.
#[test]
fn attack_28_flows_to_what_becomes_a_nodes_are_judged_again() {
    let elsewhere: IpAddr = "192.0.2.9".parse().expect("an address");
    let other: IpAddr = "192.0.2.2".parse().expect("an address");
    let narrow = Port::Range {
        protocol: Protocol::Udp,
        first: 30053,
        last: 30053,
    };
    for port in [podgate_abi::tunnel::UDP_PORTS[0], 53] {
        for becomes_node in [false, true] {
            let mut world = world(allowing(vec![block("192.0.2.0/24")], vec![narrow.clone()]));
            world.cluster_nodes.insert(other);
            let name = ObjectName::new("x", "s");
            let service = Service {
                cluster_addresses: vec!["10.96.0.1".parse().expect("an address")],
                ports: vec![ServicePort {
                    name: String::new(),
                    protocol: Protocol::Udp,
                    number: 53,
                    node_port: Some(30053),
                }],
                ..Service::default()
            };
            let slice = EndpointSlice {
                service: Some("s".into()),
                ports: vec![NamedPort {
                    name: String::new(),
                    protocol: Protocol::Udp,
                    number: port,
                }],
                endpoints: vec![Endpoint {
                    address: other,
                    state: EndpointState::Ready,
                    pod: None,
                    node: None,
                }],
                is_closed: false,
            };
            world.services.insert(name.clone(), Arc::new(service));
            world.endpoint_slices.insert(name, Arc::new(slice));
            let (tables, mut planner) = (tables(), Planner::new(AMPLE));
            put_in_force(&tables, &mut planner, &world);
            let generation = || tables.word(SLOT, Direction::Egress).generation();
            let before = generation();
            if becomes_node {
                world.cluster_nodes.insert(elsewhere);
            } else {
                world.node_scopes.insert(elsewhere.into());
            }
            let plan = planner.facts_change(&world).expect("room");
            execute(&tables, &mut planner, plan);
            assert_eq!(generation() != before, port != 53, "{port} {becomes_node}");
        }
    }
}

/// Attack 17: `::/0` in one trie with mapped IPv4.
#[test]
fn attack_17_every_ipv6_address_is_no_ipv4_address() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    put_in_force(
        &tables,
        &mut planner,
        &world(allowing(vec![block("::/0")], vec![])),
    );
    assert!(egress_passes(&tables, "2001:db8::1"));
    assert!(!egress_passes(&tables, "192.0.2.1"));

    // the same without the prefix that stands between
    tables.execute(&Step::Write(Write::RemovePrefix {
        key: podgate_abi::PrefixKey {
            length: 96,
            address: Address::from_ipv4([0, 0, 0, 0]),
        },
    }));
    assert!(egress_passes(&tables, "192.0.2.1"));
}

#[test]
fn an_ipv6_block_of_mapped_addresses_is_no_ipv4_block() {
    for cidr in [
        "::ffff:0:0/96",
        "::ffff:10.0.0.0/104",
        "::ffff:192.0.2.1/128",
    ] {
        let (tables, mut planner) = (tables(), Planner::new(AMPLE));
        put_in_force(
            &tables,
            &mut planner,
            &world(allowing(vec![block(cidr)], vec![])),
        );
        for peer in ["192.0.2.1", "10.0.0.1", "2001:db8::1"] {
            assert!(!egress_passes(&tables, peer), "{peer} by {cidr}");
        }
    }
}

/// Attack 12: an enforcer that starts numbers classes and rulesets anew, and the policy changed meanwhile.
#[test]
fn attack_12_a_restart_fills_a_table_set_of_its_own() {
    let before = world(allowing(vec![with_label("1")], vec![]));
    let after = world(allowing(vec![with_label("2")], vec![]));
    let seen =
        |tables: &HostTables| ["10.0.0.1", "10.0.0.2"].map(|peer| egress_passes(tables, peer));
    let in_force = || {
        let tables = tables();
        put_in_force(&tables, &mut Planner::new(AMPLE), &before);
        assert_eq!(seen(&tables), [true, false]);
        tables
    };
    // What the tables say after each write of the start, where the pods' filters look.
    let restart = |new: &HostTables, filters_look_at: &HostTables| -> Vec<[bool; 2]> {
        let mut planner = Planner::new(AMPLE);
        let facts = planner.facts_change(&after).expect("room");
        let mut writes = facts.writes().to_vec();
        planner.commit(facts);
        let policy = planner
            .policy_change(&Rulesets::unit(SLOT, Arc::new(rulesets(&after))))
            .expect("room");
        writes.extend_from_slice(policy.writes());
        let execute = |write| {
            new.execute(&Step::Write(write));
            seen(filters_look_at)
        };
        writes.into_iter().map(execute).collect()
    };

    let (old, new) = (in_force(), tables());
    assert!(
        restart(&new, &old)
            .iter()
            .all(|seen| *seen == [true, false])
    );
    assert_eq!(
        seen(&new),
        [false, true],
        "it is complete when the filters are swapped"
    );

    let shared = in_force();
    assert!(
        restart(&shared, &shared).contains(&[true, true]),
        "in the old tables the new numbers give what neither policy allows"
    );
}

#[test]
fn an_address_that_the_plugin_deleted_is_said_again() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let world = world(allowing(vec![with_label("1")], vec![]));
    put_in_force(&tables, &mut planner, &world);
    assert!(egress_passes(&tables, "10.0.0.1"));

    let address: IpAddr = [10, 0, 0, 1].into();
    tables.execute(&Step::Write(Write::RemovePeer {
        address: address.into(),
    }));
    planner.address_was_deleted(address);
    assert!(!egress_passes(&tables, "10.0.0.1"));

    let plan = planner.facts_change(&world).expect("room");
    assert_eq!(plan.writes().len(), 1, "nothing else is written");
    execute(&tables, &mut planner, plan);
    assert!(egress_passes(&tables, "10.0.0.1"));
}

/// An ADD that is repeated keeps what is said of the addresses that it keeps, and one that is killed may not have come to them.
#[test]
fn attack_20_an_address_that_an_add_left_alone_keeps_no_right() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let mut world = world(allowing(vec![with_label("1")], vec![]));
    put_in_force(&tables, &mut planner, &world);
    let generation = || tables.word(SLOT, Direction::Egress).generation();
    let before = generation();

    planner.address_was_deleted([10, 0, 0, 1].into());
    assert!(egress_passes(&tables, "10.0.0.1"), "it was not deleted");
    let pods = world.pods.iter();
    let pod = pods
        .clone()
        .find(|(_, pod)| pod.addresses == ["10.0.0.1".parse::<IpAddr>().expect("an address")]);
    let (name, _) = pod.expect("it has the address");
    world.pods.remove(&name.clone());
    let plan = planner.facts_change(&world).expect("room");
    for write in plan.writes() {
        tables.execute_write(write);
    }
    assert!(!egress_passes(&tables, "10.0.0.1"), "before a grace period");
    execute(&tables, &mut planner, plan);
    assert_ne!(generation(), before, "its flows are judged again");
}

#[test]
fn a_replaced_attachment_is_flipped_in_both_directions() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let world = world(allowing(vec![with_label("1")], vec![]));
    put_in_force(&tables, &mut planner, &world);

    tables.attach(SLOT, podgate_abi::RulesetId::of(Baseline::Allow));
    planner.attachment_was_replaced(SLOT);
    assert!(egress_passes(&tables, "10.0.0.2"), "the baseline allows");
    put_in_force(&tables, &mut planner, &world);
    assert!(!egress_passes(&tables, "10.0.0.2"));
}

#[test]
fn a_denied_attachment_opens_again_where_nothing_isolates_it() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let mut world = world(allowing(vec![with_label("1")], vec![]));
    let policies = std::mem::take(&mut world.policies);
    put_in_force(&tables, &mut planner, &world);
    assert!(egress_passes(&tables, "10.0.0.2"));

    let deny = |planner: &mut Planner| {
        tables.execute(&Step::Write(Write::Flip {
            slot: SLOT,
            direction: Direction::Egress,
            ruleset: RulesetId::DENY_ALL,
        }));
        planner.attachment_was_denied(SLOT, Direction::Egress, &Ruleset::Allowed);
    };
    deny(&mut planner);
    assert!(!egress_passes(&tables, "10.0.0.1"));
    put_in_force(&tables, &mut planner, &world);
    assert!(egress_passes(&tables, "10.0.0.2"));

    deny(&mut planner);
    world.policies = policies;
    put_in_force(&tables, &mut planner, &world);
    assert!(egress_passes(&tables, "10.0.0.1"));
    assert!(!egress_passes(&tables, "10.0.0.2"));
}

#[test]
fn what_is_in_force_already_is_not_written_again() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let world = world(allowing(vec![with_label("1"), block("10.0.0.0/8")], vec![]));
    put_in_force(&tables, &mut planner, &world);

    let plan = planner.facts_change(&world).expect("room");
    assert_eq!(plan.writes(), []);
    planner.commit(plan);
    let plan = planner
        .policy_change(&Rulesets::unit(SLOT, Arc::new(rulesets(&world))))
        .expect("room");
    assert_eq!(plan.writes(), []);
}

#[test]
fn only_the_direction_that_lost_something_is_judged_again() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let mut world = world(NetworkPolicy {
        egress: Vec::new(),
        ..allowing(vec![with_label("1")], vec![])
    });
    put_in_force(&tables, &mut planner, &world);
    let word = |direction| tables.word(SLOT, direction);
    let before = [word(Direction::Ingress), word(Direction::Egress)];

    let pod = Pod {
        addresses: vec![[10, 0, 0, 1].into()],
        ..Pod::default()
    };
    world.pods.insert(ObjectName::new("x", "1"), Arc::new(pod));
    let plan = planner.facts_change(&world).expect("room");
    execute(&tables, &mut planner, plan);
    assert_eq!(word(Direction::Egress), before[1]);
    assert_eq!(word(Direction::Ingress).ruleset(), before[0].ruleset());
    assert_ne!(
        word(Direction::Ingress).generation(),
        before[0].generation()
    );
}

/// A flow that a peer began from a tunnel ends when the peer becomes a node. No policy speaks of what comes from a
/// tunnel that ends at a node: the programs drop it, and must do so of a flow that began while the address was not a
/// node's.
#[test]
fn a_flow_from_a_tunnel_ends_when_the_peer_becomes_a_node() {
    let peer = IpAddr::from([10, 0, 0, 9]);
    for transport in [Transport::Other(4), Transport::Port(Protocol::Udp, 4789)] {
        for ingress in [None, Some(allowing(vec![block("10.0.0.0/8")], vec![]))] {
            let isolates_ingress = ingress.is_some();
            let (tables, mut planner) = (tables(), Planner::new(AMPLE));
            let mut world = World::default();
            put_in_force(&tables, &mut planner, &world);
            let connection = Connection {
                direction: Direction::Egress,
                peer,
                transport,
            };
            let passes = |part| passes(&tables, SLOT, &connection, part);
            tables.track(Flows::Tracked);
            assert!(passes(Part::Opening) && passes(Part::Answer));

            // From now on the flow is one that the peer began.
            let policy = NetworkPolicy {
                isolates_ingress,
                egress: Vec::new(),
                ..ingress.unwrap_or_else(|| allowing(vec![], vec![]))
            };
            let name = ObjectName::new("x", "p");
            world.policies.insert(name, Arc::new(policy));
            put_in_force(&tables, &mut planner, &world);
            assert!(passes(Part::Reply) && passes(Part::Request));

            world.cluster_nodes.insert(peer);
            let plan = planner.facts_change(&world).expect("room");
            execute(&tables, &mut planner, plan);
            assert!(!passes(Part::Reply), "{transport:?}, {isolates_ingress}");
        }
    }
}

#[test]
fn a_fact_that_only_allows_more_renews_nothing_and_never_waits() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let mut world = world(allowing(vec![with_label("1")], vec![]));
    put_in_force(&tables, &mut planner, &world);

    let pod = Pod {
        labels: labeled("1"),
        addresses: vec![[10, 0, 0, 2].into()],
        ..Pod::default()
    };
    world.pods.insert(ObjectName::new("x", "2"), Arc::new(pod));
    let plan = planner.facts_change(&world).expect("room");
    assert!(matches!(plan.writes(), [Write::Peer { .. }]), "{plan:?}");
    planner.commit(plan);
    assert!(!planner.waits_for_grace());
}

#[test]
fn no_plan_is_made_beside_an_unfinished_one() {
    let mut planner = Planner::new(AMPLE);
    let world = world(allowing(vec![with_label("1")], vec![]));
    let plan = planner.facts_change(&world).expect("room");
    assert_eq!(
        planner.policy_change(&Rulesets::new()),
        Err(PlanError::Unfinished)
    );
    planner.commit(plan);
    assert!(planner.policy_change(&Rulesets::new()).is_ok());
}

#[test]
fn occupancy_counts_what_is_stored() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let port = Port::Range {
        protocol: Protocol::Tcp,
        first: 80,
        last: 80,
    };
    let policy = NetworkPolicy {
        egress: Vec::new(),
        ..allowing(vec![with_label("1"), block("10.1.0.0/16")], vec![port])
    };
    put_in_force(&tables, &mut planner, &world(policy));
    let used = planner
        .occupancy()
        .map(|table| (table.table.name(), table.used));
    let expected = [
        // two reserved, ingress, and egress, which allows the own node
        (Table::Rulesets, 4),
        // for the pod labeled 1 and for the block
        (Table::Rows, 2),
        (Table::Peers, 1),
        // the block, and all of IPv4
        (Table::Prefixes, 2),
        // four reserved, and TCP 80
        (Table::PortSets, 5),
        // nineteen reserved, and one of TCP 80
        (Table::Chunks, 20),
        // none, the pod's and the block's
        (Table::Classes, 3),
    ];
    assert_eq!(used, expected.map(|(table, used)| (table.name(), used)));
}

/// What waited for a grace period says nothing of an address that the plugin deleted. `Engine::settle_what_is_known`:
/// the facts of an ADD are `Full`, so the engine waits for a grace period and calls `after_grace` before it plans them
/// again.
#[test]
fn a_grace_period_leaves_a_deleted_address_alone() {
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let mut world = world(allowing(vec![with_label("1")], Vec::new()));
    put_in_force(&tables, &mut planner, &world);
    let other = allowing(vec![with_label("1"), with_label("2")], Vec::new());
    world
        .policies
        .insert(ObjectName::new("x", "p"), Arc::new(other));
    let plan = planner
        .policy_change(&Rulesets::unit(SLOT, Arc::new(rulesets(&world))))
        .expect("room");
    write(&tables, &mut planner, plan);
    // The plugin gives the address of pod 1 to another pod.
    planner.address_was_deleted("10.0.0.1".parse().expect("an address"));
    planner.grace_begins();
    let plan = planner.after_grace().expect("room");
    let peers = plan.writes().iter();
    let peers: Vec<_> = peers
        .filter(|write| matches!(write, Write::Peer { .. }))
        .collect();
    assert!(
        !peers
            .iter()
            .any(|write| matches!(write, Write::Peer { address, .. }
            if *address == podgate_abi::Address::from_ipv4([10, 0, 0, 1]))),
        "it is said to be pod 1's again: {peers:?}"
    );
}

/// A pod has a flow to a Service, and then the Service leads into a tunnel at a node.
#[test]
fn a_flow_to_a_service_ends_when_that_leads_into_a_tunnel() {
    let service = IpAddr::from([10, 97, 0, 53]);
    let node = IpAddr::from([192, 0, 2, 2]);
    let leading_to = |port| {
        let dns = |number| NamedPort {
            name: "dns".into(),
            protocol: Protocol::Udp,
            number,
        };
        EndpointSlice {
            service: Some("s".into()),
            ports: vec![dns(port)],
            endpoints: vec![Endpoint {
                address: node,
                state: EndpointState::Ready,
                pod: None,
                node: None,
            }],
            is_closed: false,
        }
    };
    let name = ObjectName::new("y", "s");
    let of_service = Service {
        cluster_addresses: vec![service],
        ports: vec![ServicePort {
            name: "dns".into(),
            protocol: Protocol::Udp,
            number: 53,
            node_port: None,
        }],
        ..Service::default()
    };
    let (tables, mut planner) = (tables(), Planner::new(AMPLE));
    let mut world = World::default();
    world.cluster_nodes.insert(node);
    world.services.insert(name.clone(), Arc::new(of_service));
    let mut lead_to = |port| {
        let slice = Arc::new(leading_to(port));
        world.endpoint_slices.insert(name.clone(), slice);
        world.clone()
    };
    put_in_force(&tables, &mut planner, &lead_to(53));
    let connection = Connection {
        direction: Direction::Egress,
        peer: service,
        transport: Transport::Port(Protocol::Udp, 53),
    };
    let passes = |part| passes(&tables, SLOT, &connection, part);
    tables.track(Flows::Tracked);
    assert!(passes(Part::Opening) && passes(Part::Answer));

    let plan = planner.facts_change(&lead_to(4789)).expect("room");
    write(&tables, &mut planner, plan);
    assert!(passes(Part::Request), "what is known goes on until then");
    planner.grace_begins();
    let plan = planner.after_grace().expect("room");
    execute(&tables, &mut planner, plan);
    assert!(!passes(Part::Request));

    let plan = planner.facts_change(&lead_to(53)).expect("room");
    execute(&tables, &mut planner, plan);
    assert!(passes(Part::Opening));
}
