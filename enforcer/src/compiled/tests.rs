// SPDX-License-Identifier: Apache-2.0 OR MIT
use imbl::OrdMap;
use podgate_policy::compile::ruleset::Ruleset;
use podgate_policy::connection::Baseline;
use podgate_policy::model::{
    Labels, Namespaces, Operator, Peer, Pod, Port, Protocol, Requirement, Rule, Selector,
};

use super::*;
use crate::fixture::deny;
use crate::plan::{Capacities, PlanError, Planner};

const AMPLE: Capacities = Capacities {
    rulesets: 1 << 10,
    rows: 1 << 16,
    peers: 1 << 16,
    prefixes: 1 << 16,
    port_sets: 1 << 16,
    chunks: 1 << 16,
};

#[test]
fn rulesets_follow_policies_labels_and_attachments() {
    let subject = |name: &str| {
        Arc::new(Subject::new(
            ObjectName::new("ns", name),
            &Pod::default(),
            Baseline::Allow,
        ))
    };
    let mut view = View {
        subjects: OrdMap::unit(Slot(1), subject("a")),
        ..View::default()
    };
    let mut compiled = Compiled::default();
    compiled.update(&view);
    assert_eq!(compiled.of(Slot(1)).unwrap().ingress, Ruleset::Allowed);
    view.world
        .policies
        .insert(ObjectName::new("ns", "deny"), deny());
    view.subjects.insert(Slot(2), subject("b"));
    compiled.update(&view);
    for slot in [Slot(1), Slot(2)] {
        assert_ne!(compiled.of(slot).unwrap().ingress, Ruleset::Allowed);
        assert_eq!(compiled.of(slot).unwrap().egress, Ruleset::Allowed);
    }
    let elsewhere = Subject {
        name: ObjectName::new("other", "b"),
        ..subject("b").as_ref().clone()
    };
    view.subjects = OrdMap::unit(Slot(2), Arc::new(elsewhere));
    compiled.update(&view);
    assert_eq!(compiled.of(Slot(1)), None);
    assert_eq!(compiled.of(Slot(2)).unwrap().ingress, Ruleset::Allowed);
}

/// A policy compiles the subjects that it selects before or after a change, and no others.
#[test]
fn a_policy_compiles_subjects_selected_before_or_after_only() {
    let labeled = |app: &str| Labels::from([("app".to_owned(), app.to_owned())]);
    let subject = |namespace: &str, app: &str| {
        let pod = Pod {
            labels: labeled(app),
            ..Pod::default()
        };
        let name = ObjectName::new(namespace, app);
        Arc::new(Subject::new(name, &pod, Baseline::Allow))
    };
    let for_app = |app: &str| {
        let requirement = Requirement {
            key: "app".into(),
            operator: Operator::In(vec![app.into()]),
        };
        Arc::new(NetworkPolicy {
            members: Selector::Requirements(vec![requirement]).into(),
            ..deny().as_ref().clone()
        })
    };
    let mut view = View {
        subjects: OrdMap::from_iter([
            (Slot(1), subject("ns", "a")),
            (Slot(2), subject("ns", "b")),
            (Slot(3), subject("ns", "c")),
            (Slot(4), subject("other", "a")),
        ]),
        ..View::default()
    };
    let mut compiled = Compiled::default();
    assert_eq!(compiled.update(&view), 4);
    assert_eq!(compiled.update(&view), 0);
    let name = ObjectName::new("ns", "policy");
    for (app, compiles) in [("a", 1), ("b", 2), ("nobody", 1), ("nobody else", 0)] {
        view.world.policies.insert(name.clone(), for_app(app));
        assert_eq!(compiled.update(&view), compiles, "{app}");
    }
}

/// A subject of a namespace, in a view that has its policies.
fn add_tenant(view: &mut View, namespace: &str, slot: u32, policies: Vec<NetworkPolicy>) {
    let name = ObjectName::new(namespace, "pod");
    let subject = Subject::new(name, &Pod::default(), Baseline::Allow);
    view.subjects.insert(Slot(slot), Arc::new(subject));
    for (number, policy) in policies.into_iter().enumerate() {
        let name = ObjectName::new(namespace, format!("policy{number}"));
        view.world.policies.insert(name, Arc::new(policy));
    }
}

fn egress(rules: Vec<Rule>) -> NetworkPolicy {
    NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: false,
        isolates_egress: true,
        ingress: Vec::new(),
        egress: rules,
    }
}

fn address(number: u32) -> std::net::IpAddr {
    std::net::Ipv4Addr::from(0x5000_0000 + 2 * number).into()
}

fn block(number: u32) -> Peer {
    Peer::Block {
        cidr: address(number).into(),
        except: Vec::new(),
    }
}

fn everything_but(number: u32) -> Peer {
    Peer::Block {
        cidr: "0.0.0.0/0".parse().unwrap(),
        except: vec![address(number).into()],
    }
}

fn ports(numbers: impl IntoIterator<Item = u32>) -> Vec<Port> {
    let port = |number| {
        let number = u16::try_from(number).unwrap();
        Port::Range {
            protocol: Protocol::Tcp,
            first: number,
            last: number,
        }
    };
    numbers.into_iter().map(port).collect()
}

/// Whether a tenant of these policies is suspended, beside another whose policies take effect all the while.
fn is_suspended(policies: Vec<NetworkPolicy>) -> bool {
    let mut view = View::default();
    add_tenant(&mut view, "large", 1, policies);
    add_tenant(&mut view, "small", 2, vec![deny().as_ref().clone()]);
    let mut compiled = Compiled::default();
    compiled.update(&view);
    let small = compiled.of(Slot(2)).unwrap();
    assert_eq!(small.ingress, Ruleset::Denied);
    assert_eq!(small.egress, Ruleset::Allowed);
    let large = Arc::clone(compiled.of(Slot(1)).unwrap());
    assert_eq!(large.ingress, Ruleset::Allowed);
    assert_ne!(large.egress, Ruleset::Allowed);
    let asks_nothing = large.egress.questions().predicates.is_empty();
    let suspended = compiled.suspended();
    assert!(!suspended.contains_key("small"));
    assert_eq!(suspended.contains_key("large"), asks_nothing);
    // Tried again when something changes: without its policies it is as any other.
    let large = ObjectName::new("large", "")..ObjectName::new("larger", "");
    let names: Vec<ObjectName> = view
        .world
        .policies
        .range(large)
        .map(|(name, _)| name.clone())
        .collect();
    for name in names {
        view.world.policies.remove(&name);
    }
    compiled.update(&view);
    assert!(compiled.suspended().is_empty());
    assert_eq!(compiled.of(Slot(1)).unwrap().egress, Ruleset::Allowed);
    asks_nothing
}

#[test]
fn attack_27_port_sets_of_one_tenant_hurt_nobody_else() {
    let rule = |number: u32| Rule {
        peers: vec![block(number)],
        ports: ports([1 + number % 250, 300 + number / 250]),
    };
    let policy = |first: u32| egress((first..first + 9_500).map(rule).collect());
    assert!(is_suspended((0..7).map(|n| policy(n * 9_500)).collect()));
    assert!(!is_suspended(vec![policy(0)]));
}

#[test]
fn blocks_that_no_node_has_room_for_are_suspended() {
    let policy = |of: u32| {
        let peers = (of * 31_000..(of + 1) * 31_000).map(block).collect();
        let ports = Vec::new();
        egress(vec![Rule { peers, ports }])
    };
    assert!(is_suspended((0..9).map(policy).collect()));
    assert!(!is_suspended(vec![policy(0)]));
}

#[test]
fn rules_that_overlap_in_too_many_places_are_suspended() {
    let policy = |rules: u32| {
        let rule = |number| Rule {
            peers: vec![everything_but(number)],
            ports: Vec::new(),
        };
        egress((0..rules).map(rule).collect())
    };
    for many in [1_000, 4_500, 20_000] {
        assert!(is_suspended(vec![policy(many)]), "{many}");
    }
    assert!(!is_suspended(vec![policy(300)]));
}

#[test]
fn peers_and_ports_that_multiply_are_suspended() {
    let policy = |peers: u32, numbers: u32| {
        egress(vec![Rule {
            peers: (0..peers).map(block).collect(),
            ports: ports((1..=numbers).map(|number| 2 * number)),
        }])
    };
    assert!(is_suspended(vec![policy(5_000, 5_000)]));
    assert!(!is_suspended(vec![policy(1, 20_000)]));
    assert!(!is_suspended(vec![policy(300, 300)]));
}

#[test]
fn subjects_that_differ_in_nothing_relevant_compile_once() {
    let mut view = View::default();
    for slot in 1..=20 {
        add_tenant(&mut view, "ns", slot, Vec::new());
    }
    let rules = (0..100).map(|number| Rule {
        peers: vec![block(number)],
        ports: ports([80]),
    });
    add_tenant(&mut view, "ns", 21, vec![egress(rules.collect())]);
    let mut compiled = Compiled::default();
    assert_eq!(compiled.update(&view), 21);
    let first = compiled.of(Slot(1)).unwrap();
    for slot in 2..=21 {
        assert!(Arc::ptr_eq(first, compiled.of(Slot(slot)).unwrap()));
    }
}

/// Wide blocks of many rulesets are suspended when they are beside many blocks.
#[test]
fn wide_blocks_of_many_rulesets_are_suspended() {
    let app = |number: u32| {
        let requirement = Requirement {
            key: "app".into(),
            operator: Operator::In(vec![format!("p{number}")]),
        };
        Selector::Requirements(vec![requirement])
    };
    let suspended = |pods: u32, blocks: u32| {
        let mut view = View::default();
        for number in 0..pods {
            let pod = Pod {
                labels: Labels::from([("app".to_owned(), format!("p{number}"))]),
                ..Pod::default()
            };
            let name = ObjectName::new("large", format!("p{number}"));
            let subject = Subject::new(name.clone(), &pod, Baseline::Allow);
            view.subjects.insert(Slot(number + 1), Arc::new(subject));
            let own = Rule {
                peers: vec![everything_but(1 << 20)],
                ports: ports([1_001 + number]),
            };
            let policy = NetworkPolicy {
                members: app(number).into(),
                ..egress(vec![own])
            };
            view.world.policies.insert(name, Arc::new(policy));
        }
        let provider = NetworkPolicy {
            members: app(0).into(),
            ..egress(vec![Rule {
                peers: (0..blocks).map(block).collect(),
                ports: ports([443]),
            }])
        };
        let name = ObjectName::new("large", "provider");
        view.world.policies.insert(name, Arc::new(provider));
        let mut compiled = Compiled::default();
        compiled.update(&view);
        !compiled.suspended().is_empty()
    };
    assert!(suspended(60, 8_000));
    assert!(suspended(110, 20_000));
    assert!(!suspended(60, 500));
    assert!(!suspended(1, 8_000));
}

/// What gives way is suspended though nothing else changes, and it is the only one.
#[test]
fn what_gives_way_is_suspended_alone_without_other_changes() {
    let mut view = View::default();
    let rule = |peers| Rule {
        peers,
        ports: Vec::new(),
    };
    let heavy = egress(vec![rule((0..100).map(block).collect())]);
    add_tenant(&mut view, "heavy", 1, vec![heavy]);
    for slot in 2..5 {
        let light = egress(vec![rule(vec![block(slot)])]);
        add_tenant(&mut view, &format!("light{slot}"), slot, vec![light]);
    }
    let mut compiled = Compiled::default();
    compiled.update(&view);
    assert!(compiled.suspended().is_empty());
    let allowing = compiled.of(Slot(1)).unwrap().egress.clone();

    // Until it is compiled, plans go on to fail for its sake.
    for _ in 0..3 {
        assert!(compiled.refuse("chunks are full", &Charges::new()));
    }
    assert!(compiled.is_due(Slot(1)));
    compiled.update(&view);
    let suspended: Vec<_> = compiled.suspended().keys().collect();
    assert_eq!(suspended, ["heavy"]);
    assert_ne!(compiled.of(Slot(1)).unwrap().egress, allowing);

    // One after the other, until none is left.
    for _ in 0..3 {
        assert!(compiled.refuse("chunks are full", &Charges::new()));
        compiled.update(&view);
    }
    assert_eq!(compiled.suspended().len(), 4);
    assert!(!compiled.refuse("chunks are full", &Charges::new()));
}

/// Pods of `namespace` with every combination of so many labels.
fn add_pods_of_all_labels(view: &mut View, namespace: &str, labels: u32) {
    for number in 0..1 << labels {
        let of_bits = (0..labels).filter(|bit| number & (1 << bit) != 0);
        let pod = Pod {
            labels: of_bits
                .map(|bit| (format!("l{bit}"), String::new()))
                .collect::<Labels>(),
            addresses: vec![address(number)],
            ..Pod::default()
        };
        let name = ObjectName::new(namespace, format!("p{number}"));
        view.world.pods.insert(name, Arc::new(pod));
    }
}

#[test]
fn who_fills_a_table_gives_way_and_not_who_weighs_most() {
    let mut view = View::default();
    let heavy = egress(vec![Rule {
        peers: (0..100).map(block).collect(),
        ports: ports([443]),
    }]);
    add_tenant(&mut view, "heavy", 1, vec![heavy]);
    // Seven rules, and another port set for each combination of them.
    let rule = |bit: u32| Rule {
        peers: vec![Peer::Pods {
            namespaces: Namespaces::Own,
            pods: Selector::Requirements(vec![Requirement {
                key: format!("l{bit}"),
                operator: Operator::Exists,
            }]),
        }],
        ports: ports([1 + bit]),
    };
    add_tenant(
        &mut view,
        "filler",
        2,
        vec![egress((0..7).map(rule).collect())],
    );
    add_pods_of_all_labels(&mut view, "filler", 7);
    let mut compiled = Compiled::default();
    compiled.update(&view);
    assert!(compiled.shares.weight_of("heavy") > compiled.shares.weight_of("filler"));

    for full in [
        Capacities {
            port_sets: 100,
            ..AMPLE
        },
        Capacities {
            chunks: 100,
            ..AMPLE
        },
        Capacities { rows: 180, ..AMPLE },
    ] {
        let mut planner = Planner::new(full);
        let facts = planner.facts_change(&view.world).unwrap();
        planner.commit(facts);
        let error = planner.policy_change(compiled.rulesets()).unwrap_err();
        let PlanError::Full { charges, .. } = &error else {
            panic!("{error}");
        };
        let mut compiled = Compiled::default();
        compiled.update(&view);
        assert!(compiled.refuse(&error.to_string(), charges), "{error}");
        compiled.update(&view);
        let suspended: Vec<_> = compiled.suspended().keys().collect();
        assert_eq!(suspended, ["filler"], "{error}");
        let plan = planner.policy_change(compiled.rulesets());
        assert!(plan.is_ok(), "{error}: {plan:?}");
    }
}
