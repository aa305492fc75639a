// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Properties of NetworkPolicy that hold without knowing any verdict: how verdicts move when policies move.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use podgate_policy::arbitrary::{self, ipv4, ipv6};
use podgate_policy::compile::{SubjectRulesets, compile_subject};
use podgate_policy::connection::{Baseline, Connection, Direction, Subject, Verdict};
use podgate_policy::evaluate;
use podgate_policy::model::{
    Members, Namespaces, NetworkPolicy, ObjectName, Operator, Peer, PodUid, Port, Protocol, Rule,
    Selector, World,
};
use podgate_policy::oracle::is_led_into_tunnel;
use proptest::collection::vec;
use proptest::prelude::*;

fn connections() -> impl Strategy<Value = Vec<Connection>> {
    vec(arbitrary::connection(), 32)
}

/// The oracle's verdicts on these connections of every pod.
fn verdicts(world: &World, connections: &[Connection]) -> Vec<Verdict> {
    let subjects = arbitrary::subjects(world, Baseline::Allow);
    let pairs = subjects.iter().flat_map(|subject| {
        connections
            .iter()
            .map(move |connection| (subject, connection))
    });
    pairs
        .map(|(subject, connection)| evaluate(world, subject, connection))
        .collect()
}

fn compiled(world: &World) -> Vec<SubjectRulesets> {
    arbitrary::subjects(world, Baseline::Allow)
        .iter()
        .map(|subject| compile_subject(world, subject))
        .collect()
}

/// The world with every policy changed.
fn with_policies(world: &World, mut change: impl FnMut(&mut NetworkPolicy)) -> World {
    let mut changed = world.clone();
    changed.policies = changed
        .policies
        .into_iter()
        .map(|(name, mut policy)| {
            change(Arc::make_mut(&mut policy));
            (name, policy)
        })
        .collect();
    changed
}

fn for_each_rule(policy: &mut NetworkPolicy, change: impl FnMut(&mut Rule)) {
    policy
        .ingress
        .iter_mut()
        .chain(&mut policy.egress)
        .for_each(change);
}

/// Reverses a list and repeats its first element, unless it is empty.
fn turn<T: Clone>(list: &mut Vec<T>) {
    list.reverse();
    list.extend(list.first().cloned());
}

fn turn_selector(selector: &mut Selector) {
    match selector {
        Selector::Requirements(requirements) => {
            for requirement in requirements.iter_mut() {
                match &mut requirement.operator {
                    Operator::In(values) | Operator::NotIn(values) => turn(values),
                    Operator::Exists | Operator::DoesNotExist => {}
                }
            }
            turn(requirements);
        }
        Selector::Invalid => {}
    }
}

fn turn_peer(peer: &mut Peer) {
    match peer {
        Peer::Pods { namespaces, pods } => {
            turn_selector(pods);
            match namespaces {
                Namespaces::Own => {}
                Namespaces::Matching(selector) => turn_selector(selector),
            }
        }
        Peer::Block { except, .. } => turn(except),
        Peer::Listed(_) | Peer::Invalid => {}
    }
}

/// Whether a policy with these members applies to `subject`, by what is said of each of the three.
fn is_member(members: &Members, subject: &Subject) -> bool {
    let is_in = |uids: &BTreeSet<PodUid>| uids.iter().any(|uid| subject.uid.as_ref() == Some(uid));
    let matches = members.matching.as_ref().is_some_and(|selector| {
        *selector == Selector::Invalid || selector.matches(&subject.labels)
    });
    is_in(&members.listed) || (matches && !is_in(&members.except))
}

/// The same world with the families changed over: the `n`th IPv4 address is the `n`th IPv6 address.
fn other_family(world: &World) -> World {
    let mut changed = with_policies(world, |policy| {
        for_each_rule(policy, |rule| {
            for peer in &mut rule.peers {
                if let Peer::Block { cidr, except } = peer {
                    *cidr = other_prefix(*cidr);
                    for hole in except {
                        *hole = other_prefix(*hole);
                    }
                }
            }
        });
    });
    changed.pods = changed
        .pods
        .into_iter()
        .map(|(name, mut pod)| {
            let changed = Arc::make_mut(&mut pod);
            let of_node = changed
                .host_ports
                .iter_mut()
                .flat_map(|port| &mut port.address);
            for address in changed.addresses.iter_mut().chain(of_node) {
                *address = other_address(*address);
            }
            (name, pod)
        })
        .collect();
    changed.cluster_nodes = changed
        .cluster_nodes
        .into_iter()
        .map(other_address)
        .collect();
    changed.node_addresses = changed
        .node_addresses
        .into_iter()
        .map(other_address)
        .collect();
    changed.listed = changed
        .listed
        .into_iter()
        .map(|(address, lists)| (other_address(address), lists))
        .collect();
    changed.services = changed
        .services
        .into_iter()
        .map(|(name, mut service)| {
            let changed = Arc::make_mut(&mut service);
            let of_balancers = changed.balancer_addresses.iter_mut();
            let external = changed.external_addresses.iter_mut().chain(of_balancers);
            for address in changed.cluster_addresses.iter_mut().chain(external) {
                *address = other_address(*address);
            }
            (name, service)
        })
        .collect();
    changed.endpoint_slices = changed
        .endpoint_slices
        .into_iter()
        .map(|(name, mut slice)| {
            for endpoint in &mut Arc::make_mut(&mut slice).endpoints {
                endpoint.address = other_address(endpoint.address);
            }
            (name, slice)
        })
        .collect();
    changed.node_scopes = changed.node_scopes.into_iter().map(other_prefix).collect();
    for range in &mut changed.service_options.ranges {
        *range = other_prefix(*range);
    }
    changed
}

fn other_address(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => ipv6(v4.octets()[3]),
        IpAddr::V6(v6) => ipv4(v6.octets()[15]),
    }
}

fn other_prefix(prefix: IpNet) -> IpNet {
    let host_bits = prefix.max_prefix_len() - prefix.prefix_len();
    let is_of_the_universe =
        (0..arbitrary::ADDRESSES).any(|n| [ipv4(n), ipv6(n)].contains(&prefix.network()));
    if prefix.prefix_len() != 0 && !is_of_the_universe {
        // Around scopes: it holds no address of the universe in either family.
        return prefix;
    }
    let address = other_address(prefix.addr());
    let longest = if address.is_ipv4() { 32_u8 } else { 128 };
    // The blocks of the universe have few host bits or all of them.
    let length = if prefix.prefix_len() == 0 {
        0
    } else {
        longest - host_bits
    };
    IpNet::new(address, length)
        .expect("a length of the family")
        .trunc()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn order_and_repetition_change_no_ruleset(world in arbitrary::world()) {
        let mut turned = with_policies(&world, |policy| {
            policy.members.matching.iter_mut().for_each(turn_selector);
            for_each_rule(policy, |rule| {
                rule.peers.iter_mut().for_each(turn_peer);
                turn(&mut rule.peers);
                turn(&mut rule.ports);
            });
            turn(&mut policy.ingress);
            turn(&mut policy.egress);
        });
        turned.policies = turned.policies.into_iter().rev().enumerate()
            .map(|(number, (name, policy))| (ObjectName::new(name.namespace, format!("renamed-{number}")), policy))
            .collect();
        prop_assert_eq!(compiled(&turned), compiled(&world));
    }

    #[test]
    fn a_policy_for_each_rule_is_the_same_as_one_for_all(world in arbitrary::world()) {
        let mut split = world.clone();
        split.policies = OrdMap::new();
        for (name, policy) in &world.policies {
            let none = NetworkPolicy { ingress: vec![], egress: vec![], ..(**policy).clone() };
            let ingress = policy.ingress.iter().map(|rule| NetworkPolicy { ingress: vec![rule.clone()], ..none.clone() });
            let egress = policy.egress.iter().map(|rule| NetworkPolicy { egress: vec![rule.clone()], ..none.clone() });
            for (number, part) in std::iter::once(none.clone()).chain(ingress).chain(egress).enumerate() {
                let name = ObjectName::new(&*name.namespace, format!("{}-{number}", name.name));
                split.policies.insert(name, Arc::new(part));
            }
        }
        prop_assert_eq!(compiled(&split), compiled(&world));
    }

    #[test]
    fn a_rule_that_another_one_includes_changes_no_ruleset(
        world in arbitrary::world(),
        peer in arbitrary::peer(),
        protocol in prop_oneof![Just(Protocol::Tcp), Just(Protocol::Sctp)],
    ) {
        // No port of a tunnel: beside a rule without ports, one that names it opens it to the own node.
        // And on egress no peer by address beside named ports: it may mean a Service's own address.
        let by_address = matches!(peer, Peer::Block { .. } | Peer::Listed(_));
        let narrower = |rules: &mut Vec<Rule>, direction: Direction| {
            for rule in rules.clone() {
                let speaks_of_services = direction == Direction::Egress && by_address && !rule.ports.is_empty();
                if rule.peers.is_empty() && !speaks_of_services {
                    rules.push(Rule { peers: vec![peer.clone()], ..rule.clone() });
                }
                if rule.ports.is_empty() {
                    let name = Port::Named { protocol, name: "http".into() };
                    let no_tunnel = Port::Range { protocol: Protocol::Udp, first: 1, last: 8 };
                    rules.push(Rule { ports: vec![name, no_tunnel, Port::All(protocol)], ..rule });
                }
            }
        };
        let redundant = with_policies(&world, |policy| {
            narrower(&mut policy.ingress, Direction::Ingress);
            narrower(&mut policy.egress, Direction::Egress);
        });
        prop_assert_eq!(compiled(&redundant), compiled(&world));
    }

    #[test]
    fn more_rules_peers_and_ports_never_deny_more(
        world in arbitrary::world(),
        connections in connections(),
        rule in arbitrary::rule(),
        peer in arbitrary::peer(),
        port in arbitrary::port(),
    ) {
        let before = verdicts(&world, &connections);
        let more_rules = with_policies(&world, |policy| {
            policy.ingress.push(rule.clone());
            policy.egress.push(rule.clone());
        });
        let more_peers = with_policies(&world, |policy| for_each_rule(policy, |rule| {
            if !rule.peers.is_empty() {
                rule.peers.push(peer.clone());
            }
        }));
        let more_ports = with_policies(&world, |policy| for_each_rule(policy, |rule| {
            if !rule.ports.is_empty() {
                rule.ports.push(port.clone());
            }
        }));
        for wider in [more_rules, more_peers, more_ports] {
            for (before, after) in before.iter().zip(verdicts(&wider, &connections)) {
                prop_assert!(!(*before == Verdict::Allow && after == Verdict::Deny));
            }
        }
    }

    #[test]
    fn another_policy_denies_only_where_it_isolates_anew(world in arbitrary::world(), connections in connections()) {
        let deny_all = NetworkPolicy {
            members: Selector::everything().into(),
            isolates_ingress: true,
            isolates_egress: true,
            ingress: vec![],
            egress: vec![],
        };
        let mut denied = world.clone();
        for namespace in arbitrary::NAMESPACES {
            denied.policies.insert(ObjectName::new(namespace, "deny-all"), Arc::new(deny_all.clone()));
        }
        for subject in arbitrary::subjects(&world, Baseline::Allow) {
            let isolated = |direction| world.policies.iter().any(|(name, policy)| {
                name.namespace == subject.name.namespace
                    && is_member(&policy.members, &subject)
                    && match direction {
                        Direction::Ingress => policy.isolates_ingress,
                        Direction::Egress => policy.isolates_egress,
                    }
            });
            for connection in connections.iter().filter(|connection| isolated(connection.direction)) {
                prop_assert_eq!(evaluate(&denied, &subject, connection), evaluate(&world, &subject, connection));
            }
        }
    }

    #[test]
    fn beside_a_rule_for_everything_no_other_rule_matters(world in arbitrary::world(), connections in connections()) {
        let open = with_policies(&world, |policy| {
            policy.ingress.push(Rule::default());
            policy.egress.push(Rule::default());
        });
        for (subject, connection) in arbitrary::subjects(&open, Baseline::Allow).iter()
            .flat_map(|subject| connections.iter().map(move |connection| (subject.clone(), connection)))
        {
            let tunnel_to_node = connection.transport.is_tunnel(&world.tunnel_ports)
                && (world.node_addresses.contains(&connection.peer) || world.cluster_nodes.contains(&connection.peer));
            // Nor does such a rule open a tunnel to which Services lead.
            let is_tunnel = tunnel_to_node || is_led_into_tunnel(&world, connection);
            if connection.direction == Direction::Ingress || !is_tunnel {
                prop_assert_eq!(evaluate(&open, &subject, connection), Verdict::Allow);
            }
        }
    }

    #[test]
    fn beside_its_whole_block_an_exception_matters_no_more(world in arbitrary::world(), connections in connections()) {
        let without_exceptions = with_policies(&world, |policy| for_each_rule(policy, |rule| {
            for peer in &mut rule.peers {
                if let Peer::Block { except, .. } = peer {
                    except.clear();
                }
            }
        }));
        let with_whole_blocks_beside = with_policies(&world, |policy| for_each_rule(policy, |rule| {
            let whole: Vec<Peer> = rule.peers.iter().filter_map(|peer| match peer {
                Peer::Block { cidr, .. } => Some(Peer::Block { cidr: *cidr, except: vec![] }),
                Peer::Pods { .. } | Peer::Listed(_) | Peer::Invalid => None,
            }).collect();
            rule.peers.extend(whole);
        }));
        prop_assert_eq!(
            verdicts(&with_whole_blocks_beside, &connections),
            verdicts(&without_exceptions, &connections)
        );
    }

    #[test]
    fn a_list_is_the_same_as_a_block_for_each_of_its_addresses(world in arbitrary::world(), connections in connections()) {
        let blocks = with_policies(&world, |policy| for_each_rule(policy, |rule| {
            rule.peers = rule.peers.iter().flat_map(|peer| match peer {
                Peer::Listed(name) => {
                    let listed = world.listed.iter().filter(|(_, lists)| lists.contains(name));
                    let blocks = listed.map(|(address, _)| Peer::Block { cidr: (*address).into(), except: vec![] });
                    // Without an element, a rule would be for everybody.
                    blocks.chain([Peer::Invalid]).collect()
                }
                Peer::Pods { .. } | Peer::Block { .. } | Peer::Invalid => vec![peer.clone()],
            }).collect();
        }));
        prop_assert_eq!(verdicts(&blocks, &connections), verdicts(&world, &connections));
    }

    #[test]
    fn a_policy_applies_to_the_same_pods_by_uid_as_by_label(world in arbitrary::world(), connections in connections()) {
        let mut by_uid = world.clone();
        for (name, policy) in &world.policies {
            let subjects = arbitrary::subjects(&world, Baseline::Allow).into_iter()
                .filter(|subject| subject.name.namespace == name.namespace && is_member(&policy.members, subject));
            let listed: Option<BTreeSet<PodUid>> = subjects.map(|subject| subject.uid).collect();
            if let Some(listed) = listed {
                let members = Members { listed, ..Members::default() };
                by_uid.policies.insert(name.clone(), Arc::new(NetworkPolicy { members, ..(**policy).clone() }));
            }
        }
        prop_assert_eq!(verdicts(&by_uid, &connections), verdicts(&world, &connections));
    }

    #[test]
    fn a_named_port_within_all_ports_is_a_named_port_on_ingress(world in arbitrary::world()) {
        let ingress = |change: fn(&Port) -> Port| with_policies(&world, |policy| {
            for rule in &mut policy.ingress {
                rule.ports = rule.ports.iter().map(change).collect();
            }
        });
        let within = ingress(|port| match port {
            Port::Named { protocol, name } | Port::NamedWithin { protocol, name, .. } =>
                Port::NamedWithin { protocol: *protocol, name: name.clone(), first: 0, last: u16::MAX },
            Port::All(_) | Port::Range { .. } | Port::Invalid => port.clone(),
        });
        let named = ingress(|port| match port {
            Port::Named { protocol, name } | Port::NamedWithin { protocol, name, .. } =>
                Port::Named { protocol: *protocol, name: name.clone() },
            Port::All(_) | Port::Range { .. } | Port::Invalid => port.clone(),
        });
        prop_assert_eq!(compiled(&within), compiled(&named));
    }

    #[test]
    fn a_range_is_the_same_as_its_ports_one_by_one(world in arbitrary::world()) {
        let short = |port: &Port| matches!(port, Port::Range { first, last, .. } if last - first < 10);
        let one_by_one = with_policies(&world, |policy| for_each_rule(policy, |rule| {
            rule.ports = rule.ports.iter().flat_map(|port| match port {
                Port::Range { protocol, first, last } if short(port) =>
                    (*first..=*last).map(|one| Port::Range { protocol: *protocol, first: one, last: one }).collect(),
                Port::Range { .. } | Port::All(_) | Port::Named { .. } | Port::NamedWithin { .. } | Port::Invalid =>
                    vec![port.clone()],
            }).collect();
        }));
        prop_assert_eq!(compiled(&one_by_one), compiled(&world));
    }

    #[test]
    fn pods_that_selectors_do_not_see_change_no_verdict(world in arbitrary::world(), connections in connections()) {
        let mut without = world.clone();
        without.pods = without.pods.into_iter().filter(|(_, pod)| pod.is_selectable()).collect();
        prop_assert_eq!(verdicts(&without, &connections), verdicts(&world, &connections));
    }

    #[test]
    fn both_families_are_judged_alike(world in arbitrary::world(), connections in connections()) {
        let known: Vec<Connection> = connections.into_iter()
            .filter(|connection| (0..arbitrary::ADDRESSES).any(|n| [ipv4(n), ipv6(n)].contains(&connection.peer)))
            .collect();
        let changed_over: Vec<Connection> = known.iter()
            .map(|connection| Connection { peer: other_address(connection.peer), ..*connection })
            .collect();
        prop_assert_eq!(verdicts(&other_family(&world), &changed_over), verdicts(&world, &known));
    }
}
