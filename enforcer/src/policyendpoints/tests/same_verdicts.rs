// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the controller makes of policies means, read here, what the policies mean.

use podgate_policy::arbitrary;
use podgate_policy::model::{Members, Peer};
use proptest::collection::vec;
use proptest::prelude::*;

use super::controller::Controller;
use super::*;

/// The same world without what the controller cannot express: second addresses, addresses of two, names of ports,
/// pods in a node's network, elements that cannot be read.
#[expect(
    clippy::too_many_lines,
    reason = "one thing after the other is taken away"
)]
fn expressible(world: &World) -> World {
    let mut plain = world.clone();
    let mut taken: Vec<IpAddr> = world.node_addresses.clone();
    plain.pods = world
        .pods
        .iter()
        .filter(|(_, pod)| pod.is_selectable())
        .filter_map(|(name, pod)| {
            let address = *pod.addresses.first()?;
            if taken.contains(&address) {
                return None;
            }
            taken.push(address);
            let pod = Pod {
                addresses: vec![address],
                ..pod.as_ref().clone()
            };
            Some((name.clone(), Arc::new(pod)))
        })
        .collect();
    let plain_rule = |rule: &Rule| {
        let mut rule = rule.clone();
        for port in &mut rule.ports {
            if !matches!(port, Port::All(_) | Port::Range { .. }) {
                *port = Port::Range {
                    protocol: Protocol::Tcp,
                    first: 5,
                    last: 5,
                };
            }
        }
        let invalid = |selector: &Selector| *selector == Selector::Invalid;
        for peer in &mut rule.peers {
            let readable = match peer {
                Peer::Pods {
                    namespaces: podgate_policy::model::Namespaces::Own,
                    pods,
                } => !invalid(pods),
                Peer::Pods {
                    namespaces: podgate_policy::model::Namespaces::Matching(of),
                    pods,
                } => !invalid(of) && !invalid(pods),
                Peer::Block { .. } => true,
                Peer::Listed(_) | Peer::Invalid => false,
            };
            if !readable {
                *peer = Peer::Block {
                    cidr: "198.51.100.0/24".parse().unwrap(),
                    except: vec![],
                };
            }
        }
        rule
    };
    plain.policies = world
        .policies
        .iter()
        .map(|(name, policy)| {
            let matching = match &policy.members.matching {
                Some(readable @ Selector::Requirements(_)) => readable.clone(),
                Some(Selector::Invalid) | None => Selector::everything(),
            };
            let policy = NetworkPolicy {
                members: Members::from(matching),
                ingress: policy.ingress.iter().map(plain_rule).collect(),
                egress: policy.egress.iter().map(plain_rule).collect(),
                ..policy.as_ref().clone()
            };
            (name.clone(), Arc::new(policy))
        })
        .collect();
    plain.listed = Default::default();
    // What the controller says of Services are addresses of its own choice, and no endpoints.
    plain.services = Default::default();
    plain.endpoint_slices = Default::default();
    plain.pods = plain
        .pods
        .into_iter()
        .map(|(name, mut pod)| {
            Arc::make_mut(&mut pod).host_ports.clear();
            (name, pod)
        })
        .collect();
    plain
}

/// All that is to be heard of a world, without the pods of the namespace `z`, which are on another node.
fn heard(world: &World, chunk: usize) -> Vec<Heard> {
    let controller = Controller {
        chunk,
        services: Vec::new(),
    };
    let uid = |name: &ObjectName| format!("uid of {name}");
    let mut all = Vec::new();
    for (name, policy) in &world.policies {
        let owner = OwnerPolicy {
            uid: uid(name),
            deleting: false,
            policy: Arc::clone(policy),
        };
        all.push(Heard::Policy(name.clone(), Some(owner)));
        let specs = controller.specs(world, name, policy, |_| host());
        for (i, spec) in specs.into_iter().enumerate() {
            let object = format!("{}-{i}", name.name);
            let owner = owned_by(&name.name, &uid(name));
            let slice = slice_of(&name.namespace, &object, spec, owner);
            let object = ObjectName::new(&name.namespace, object);
            all.push(Heard::Slice(object, Some(Arc::new(slice))));
        }
    }
    for (name, pod) in &world.pods {
        if name.namespace != "z" {
            let pod = IdentifiedPod {
                name: name.clone(),
                config_hash: None,
                node: None,
                pod: Arc::new(Pod {
                    uid: Some(PodUid(uid(name).into())),
                    ..pod.as_ref().clone()
                }),
            };
            all.push(Heard::Pod(name.clone(), Some(Arc::new(pod))));
        }
    }
    all
}

fn desk_of(heard: impl IntoIterator<Item = Heard>) -> Desk {
    let mut desk = Desk::new();
    for heard in heard {
        desk.hear(heard);
    }
    desk.pass(Duration::from_secs(1));
    desk
}

/// Such a one needs a rule that has its port as a number, and the controller forgets the numbers of one rule beside
/// another for all ports to the same block or pod.
fn is_tunnel_to_a_node(world: &World, connection: &Connection) -> bool {
    let Connection {
        direction,
        peer,
        transport,
    } = connection;
    let is_nodes = world.node_addresses.contains(peer) || world.cluster_nodes.contains(peer);
    *direction == Direction::Egress && is_nodes && transport.is_tunnel(&world.tunnel_ports)
}

/// A number beside a rule for all ports opens no tunnel by way of the controller.
#[test]
fn a_number_beside_a_rule_for_all_ports_opens_no_tunnel() {
    let node: IpAddr = "192.0.2.1".parse().unwrap();
    let block = Peer::Block {
        cidr: "192.0.2.0/24".parse().unwrap(),
        except: vec![],
    };
    let number = || Port::Range {
        protocol: Protocol::Udp,
        first: 4789,
        last: 4789,
    };
    let to = |ports: Vec<Port>| Rule {
        peers: vec![block.clone()],
        ports,
    };
    let tunnel = Connection {
        direction: Direction::Egress,
        peer: node,
        transport: Transport::Port(Protocol::Udp, 4789),
    };
    for (rules, meant, said) in [
        (vec![to(vec![number()])], Verdict::Allow, Verdict::Allow),
        (vec![to(vec![])], Verdict::Deny, Verdict::Deny),
        (
            vec![to(vec![number()]), to(vec![])],
            Verdict::Allow,
            Verdict::Deny,
        ),
    ] {
        let mut world = World::default();
        let name = ObjectName::new("ns", "web");
        let web = pod("web", "uid of ns/web", "web", Some("10.0.0.1")).pod;
        world.pods.insert(name.clone(), web);
        world.cluster_nodes.insert(node);
        let mut owner = policy("n", false, true);
        Arc::make_mut(&mut owner.policy).egress = rules;
        let of = ObjectName::new("ns", "p");
        world.policies.insert(of, owner.policy);
        let read = World {
            cluster_nodes: world.cluster_nodes.clone(),
            ..world_of(&desk_of(heard(&world, 200)).objects)
        };
        let subject = Subject::new(name.clone(), &world.pods[&name], Baseline::Allow);
        assert_eq!(evaluate(&world, &subject, &tunnel), meant);
        assert_eq!(verdict(&read, &subject, &tunnel), said);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn policies_mean_the_same_by_way_of_the_controller(
        world in arbitrary::world(),
        chunk in 1..4_usize,
        connections in vec(arbitrary::connection(), 24),
    ) {
        let world = expressible(&world);
        let desk = desk_of(heard(&world, chunk));
        let read = World {
            node_addresses: world.node_addresses.clone(),
            node_scopes: world.node_scopes.clone(),
            cluster_nodes: world.cluster_nodes.clone(),
            ..world_of(&desk.objects)
        };
        for name in world.pods.keys().filter(|name| name.namespace != "z") {
            let subject = Subject {
                uid: Some(PodUid(format!("uid of {name}").into())),
                ..Subject::new(name.clone(), &world.pods[name], Baseline::Allow)
            };
            for connection in &connections {
                let (said, meant) =
                    (verdict(&read, &subject, connection), evaluate(&world, &subject, connection));
                if said == Verdict::Deny && is_tunnel_to_a_node(&world, connection) {
                    continue;
                }
                prop_assert_eq!(said, meant, "{} in {:?}", name, connection);
            }
        }
    }

    /// The order in which things are heard and the size of chunks change nothing.
    #[test]
    fn neither_the_order_heard_nor_the_chunk_size_changes_anything(
        (world, one, other) in arbitrary::world().prop_flat_map(|world| {
            let world = expressible(&world);
            let (one, other) = (heard(&world, 1), heard(&world, 3));
            (Just(world), Just(one).prop_shuffle(), Just(other).prop_shuffle())
        }),
    ) {
        let in_order = desk_of(heard(&world, 200)).objects;
        prop_assert_eq!(&desk_of(one).objects, &in_order);
        prop_assert_eq!(&desk_of(other).objects, &in_order);
    }

    #[test]
    fn a_relist_ends_where_single_events_end(
        before in arbitrary::world(),
        after in arbitrary::world(),
    ) {
        let (before, after) = (heard(&expressible(&before), 2), heard(&expressible(&after), 2));
        let name_of = |heard: &Heard| match heard {
            Heard::Slice(name, _) => (0, name.clone()),
            Heard::Policy(name, _) => (1, name.clone()),
            Heard::Pod(name, _) => (2, name.clone()),
        };
        let gone = |heard: &Heard| match heard {
            Heard::Slice(name, _) => Heard::Slice(name.clone(), None),
            Heard::Policy(name, _) => Heard::Policy(name.clone(), None),
            Heard::Pod(name, _) => Heard::Pod(name.clone(), None),
        };
        let mut desk = desk_of(before.clone());
        for heard in &before {
            if !after.iter().any(|new| name_of(new) == name_of(heard)) {
                desk.hear(gone(heard));
            }
        }
        for heard in &after {
            desk.hear(heard.clone());
        }
        // Policies that got directions anew wait for slices that have come already, and no longer.
        desk.pass(Duration::from_secs(11));
        prop_assert_eq!(&desk.objects, &desk_of(after).objects);
        prop_assert_eq!(&desk.warnings, &Vec::<String>::new());
    }
}

/// A Service's address is allowed at the ports that the controller lists.
#[test]
fn a_service_address_is_allowed_at_the_listed_ports() {
    let mut world = World::default();
    let backend = pod("db", "u", "db", Some("10.0.0.9")).pod;
    world.pods.insert(ObjectName::new("ns", "db"), backend);
    let rule = Rule {
        peers: vec![Peer::Pods {
            namespaces: podgate_policy::model::Namespaces::Own,
            pods: app("db"),
        }],
        ports: vec![Port::Range {
            protocol: Protocol::Tcp,
            first: 5432,
            last: 5432,
        }],
    };
    let mut owner = policy("n", false, true);
    Arc::make_mut(&mut owner.policy).egress = vec![rule];
    let service = controller::Service {
        namespace: "ns".into(),
        selector: [("app".to_owned(), "db".to_owned())].into(),
        cluster_ip: "10.96.0.9".parse().unwrap(),
        ports: vec![(Protocol::Tcp, 80, 5432), (Protocol::Tcp, 81, 9)],
    };
    let controller = Controller {
        chunk: 200,
        services: vec![service],
    };
    let name = ObjectName::new("ns", "p");
    let specs = controller.specs(&world, &name, &owner.policy, |_| host());
    assert_eq!(specs.len(), 1);
    let mut desk = Desk::new();
    desk.pod("web", Some(pod("web", "u2", "web", Some("10.0.0.1"))));
    desk.policy("p", Some(owner));
    desk.slice("p-1", specs[0].clone(), owned_by("p", "n"));
    desk.pass(300 * MS);
    for (peer, port, expected) in [
        ("10.0.0.9", 5432, Verdict::Allow),
        ("10.96.0.9", 80, Verdict::Allow),
        ("10.96.0.9", 81, Verdict::Deny),
        ("10.96.0.9", 5432, Verdict::Deny),
        ("10.0.0.9", 80, Verdict::Deny),
    ] {
        let verdict = desk.judge("web", Direction::Egress, peer, port);
        assert_eq!(verdict, expected, "{peer} {port}");
    }
}
