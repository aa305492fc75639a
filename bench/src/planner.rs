// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What worlds cost that the owner of one namespace can write: compiler and planner alone, without a kernel.
//!
//! ```text
//! world, subjects ──► Compiled::update ──► Planner::facts_change, policy_change ──► seconds, rows, classes, memory
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use ipnet::{IpNet, Ipv4Net};
use podgate_datapath::record::Slot;
use podgate_enforcer::cluster::View;
use podgate_enforcer::compiled::Compiled;
use podgate_enforcer::plan::{Capacities, Planner, STEP};
use podgate_policy::connection::{Baseline, Subject};
use podgate_policy::model::{
    Labels, Namespace, Namespaces, NetworkPolicy, ObjectName, Operator, Peer, Pod, Port, Protocol,
    Requirement, Rule, Selector,
};

/// Which worlds.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only worlds whose name contains this.
    #[arg(default_value = "")]
    only: String,
    /// Only worlds of at most this size.
    #[arg(long, default_value_t = usize::MAX)]
    most: usize,
}

/// A kind of world, the sizes that are tried, and who makes one.
type Kind = (&'static str, &'static [usize], fn(usize) -> View);

const KINDS: [Kind; 8] = [
    (
        "rules of 0/0 except one",
        &[500, 1_000, 2_000, 4_000],
        rules_except_one,
    ),
    (
        "excepts in one block, 20 pods",
        &[3_000, 10_000, 20_000],
        excepts,
    ),
    ("ports in a rule, 20 pods", &[1_000, 5_000, 20_000], ports),
    (
        "rules of one port each, 20 pods",
        &[1_000, 5_000, 20_000],
        rules_of_one_port,
    ),
    ("policies with NotIn x pods", &[100, 500, 1_000], not_in),
    ("tenants of 0/0 except their own", &[100, 250, 500], tenants),
    (
        "60 pods of 0/0 except 10/8, and blocks",
        &[1_000, 8_000],
        supersets,
    ),
    (
        "distinct /32 in 9 policies",
        &[9_000, 90_000, 279_000],
        blocks,
    ),
];

const ROOM: Capacities = Capacities {
    rulesets: 1 << 14,
    rows: 1 << 24,
    peers: 1 << 22,
    prefixes: 1 << 20,
    port_sets: 1 << 16,
    chunks: 1 << 16,
};

/// Prints the table.
pub(crate) fn print(options: &Options) -> Result<()> {
    println!(
        "world | size | compiled | planned | longest step | an edit | rows | classes | prefixes | memory"
    );
    for (name, sizes, make) in KINDS {
        if !name.contains(&options.only) {
            continue;
        }
        for size in sizes.iter().filter(|size| **size <= options.most) {
            let view = make(*size);
            measure(name, *size, view)?;
        }
    }
    Ok(())
}

fn measure(name: &str, size: usize, mut view: View) -> Result<()> {
    let mut compiled = Compiled::default();
    let mut planner = Planner::new(ROOM);
    let mut longest = Duration::ZERO;
    let began = Instant::now();
    loop {
        let began = Instant::now();
        compiled.update_until(&view, Some(began), Instant::now);
        longest = longest.max(began.elapsed());
        if !compiled.is_behind() {
            break;
        }
    }
    let compiling = began.elapsed();
    let began = Instant::now();
    let facts = planner.facts_change(&view.world)?;
    planner.commit(facts);
    while !planner.is_at(compiled.rulesets()) {
        let began = Instant::now();
        let policy = planner.policy_step(compiled.rulesets(), STEP)?;
        planner.commit(policy);
        longest = longest.max(began.elapsed());
    }
    let planning = began.elapsed();
    let occupancy = planner.occupancy();
    let deny = NetworkPolicy {
        ingress: Vec::new(),
        isolates_ingress: true,
        ..policy_of(Vec::new())
    };
    let began = Instant::now();
    view.world
        .policies
        .insert(ObjectName::new("other", "deny"), Arc::new(deny));
    view.subjects.insert(Slot(9_999), subject("other", "p", 0));
    compiled.update(&view);
    let policy = planner.policy_change(compiled.rulesets())?;
    planner.commit(policy);
    let edit = began.elapsed();
    let used = |table: &str| {
        let of = occupancy.iter().find(|of| of.table.name() == table);
        of.map_or(0, |of| of.used)
    };
    println!(
        "{name} | {size} | {compiling:.3?} | {planning:.3?} | {longest:.3?} | {edit:.3?} | {} | {} | {} | {} MB",
        used("rows"),
        used("classes"),
        used("prefixes"),
        resident()?
    );
    Ok(())
}

/// This process's memory in MB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kilobytes.context("no VmRSS")?.parse::<u64>()? / 1024)
}

fn subject(namespace: &str, name: &str, number: usize) -> Arc<Subject> {
    let pod = pod(number);
    let name = ObjectName::new(namespace, name);
    Arc::new(Subject::new(name, &pod, Baseline::Allow))
}

fn pod(number: usize) -> Pod {
    Pod {
        labels: Labels::from([("app".to_owned(), format!("p{number}"))]),
        addresses: vec![IpAddr::V4(nth(0x0a01_0000, number))],
        ..Pod::default()
    }
}

fn nth(first: u32, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(first + u32::try_from(number).expect("worlds are small"))
}

fn net(address: Ipv4Addr, length: u8) -> IpNet {
    let net = Ipv4Net::new(address, length).expect("a length of IPv4");
    IpNet::V4(net.trunc())
}

fn everything_but(except: Vec<IpNet>) -> Peer {
    Peer::Block {
        cidr: net(Ipv4Addr::UNSPECIFIED, 0),
        except,
    }
}

fn block(cidr: IpNet) -> Peer {
    let except = Vec::new();
    Peer::Block { cidr, except }
}

fn port(number: usize) -> Port {
    let number = u16::try_from(number).expect("a port");
    Port::Range {
        protocol: Protocol::Tcp,
        first: number,
        last: number,
    }
}

fn rule(peers: Vec<Peer>, ports: Vec<Port>) -> Rule {
    Rule { peers, ports }
}

/// An egress policy of every pod of its namespace.
fn policy_of(egress: Vec<Rule>) -> NetworkPolicy {
    NetworkPolicy {
        members: Selector::everything().into(),
        isolates_ingress: false,
        isolates_egress: true,
        ingress: Vec::new(),
        egress,
    }
}

/// Pods of one namespace, all of them here.
fn view_of(pods: usize, policies: Vec<NetworkPolicy>) -> View {
    let mut view = View::default();
    for name in ["ns", "other"] {
        let namespace = Namespace::new(name, Labels::new());
        view.world.namespaces.insert(name.into(), namespace);
    }
    for number in 0..pods {
        add_pod(&mut view, "ns", number);
    }
    for (number, policy) in policies.into_iter().enumerate() {
        let name = ObjectName::new("ns", format!("policy{number}"));
        view.world.policies.insert(name, Arc::new(policy));
    }
    view
}

fn add_pod(view: &mut View, namespace: &str, number: usize) {
    let name = format!("p{number}");
    view.world
        .pods
        .insert(ObjectName::new(namespace, &name), Arc::new(pod(number)));
    let slot = Slot(u32::try_from(number).expect("few pods") + 1);
    view.subjects
        .insert(slot, subject(namespace, &name, number));
}

fn app(operator: fn(Vec<String>) -> Operator, number: usize) -> Selector {
    Selector::Requirements(vec![Requirement {
        key: "app".to_owned(),
        operator: operator(vec![format!("p{number}")]),
    }])
}

fn rules_except_one(size: usize) -> View {
    let except = |number| everything_but(vec![net(nth(0xc633_0000, number), 32)]);
    let rules = (0..size).map(|number| rule(vec![except(number)], vec![port(443)]));
    view_of(1, vec![policy_of(rules.collect())])
}

fn excepts(size: usize) -> View {
    let except = (0..size).map(|number| net(nth(0xc633_0000, 2 * number), 32));
    let rules = vec![rule(
        vec![everything_but(except.collect())],
        vec![port(443)],
    )];
    view_of(20, vec![policy_of(rules)])
}

fn ports(size: usize) -> View {
    let ports = (1..=size).map(|number| port(2 * number)).collect();
    view_of(20, vec![policy_of(vec![rule(Vec::new(), ports)])])
}

fn rules_of_one_port(size: usize) -> View {
    let peer = || block(net(Ipv4Addr::new(198, 51, 100, 0), 24));
    let rules = (1..=size).map(|number| rule(vec![peer()], vec![port(2 * number)]));
    view_of(20, vec![policy_of(rules.collect())])
}

fn not_in(size: usize) -> View {
    let peer = |number| Peer::Pods {
        namespaces: Namespaces::Own,
        pods: app(Operator::NotIn, number),
    };
    let policies = (0..size).map(|number| policy_of(vec![rule(vec![peer(number)], Vec::new())]));
    let mut view = view_of(size, policies.collect());
    view.subjects = view.subjects.take(1);
    view
}

fn tenants(size: usize) -> View {
    let mut view = view_of(0, Vec::new());
    for number in 0..size {
        let namespace = format!("t{number}");
        let own = net(nth(0x0a01_0000, number * 256), 24);
        let rules = vec![rule(vec![everything_but(vec![own])], Vec::new())];
        add_pod(&mut view, &namespace, number);
        let name = ObjectName::new(&namespace, "policy");
        view.world.policies.insert(name, Arc::new(policy_of(rules)));
    }
    view
}

fn supersets(size: usize) -> View {
    let ten = net(Ipv4Addr::new(10, 0, 0, 0), 8);
    let own = |number: usize| NetworkPolicy {
        members: app(Operator::In, number).into(),
        ..policy_of(vec![rule(
            vec![everything_but(vec![ten])],
            vec![port(1_001 + number)],
        )])
    };
    let blocks = (0..size).map(|number| block(net(nth(0xc633_0000, 2 * number), 32)));
    let provider = NetworkPolicy {
        members: app(Operator::In, 0).into(),
        ..policy_of(vec![rule(blocks.collect(), vec![port(443)])])
    };
    let policies = (0..60).map(own).chain([provider]);
    view_of(60, policies.collect())
}

fn blocks(size: usize) -> View {
    let policy = |number: usize| {
        let first = number * size / 9;
        let last = (number + 1) * size / 9;
        let blocks = (first..last).map(|number| block(net(nth(0x5000_0000, 2 * number), 32)));
        policy_of(vec![rule(blocks.collect(), vec![port(443)])])
    };
    view_of(1, (0..9).map(policy).collect())
}
