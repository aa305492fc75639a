// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What answers the network takes nothing from enforcement: connections and scrapes of a pod that may reach nobody but, as
//! every pod, its own node.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use podgate_tests::node::{
    Enforcer, Node, Pod, arrives, in_force, is_lost, lets_in, namespace, pod, policy, wait_until,
};
use serde_json::json;

const HEALTH: u16 = 8163;
const METRICS: u16 = 8162;

/// More than the 1,024 descriptors that most supervisors give a process.
const CONNECTIONS: usize = 1100;

/// What two listeners and everything else may come to have open beside what they had.
const DESCRIPTORS: usize = 300;

/// Memory that may be taken meanwhile, in kB. A listener without limits takes 20 for each connection.
const MEMORY: u64 = 16 * 1024;

/// The address of the node that a pod of `ptp` has as its gateway.
fn gateway() -> IpAddr {
    IpAddr::from([10, 96, 0, 1])
}

/// A node whose enforcer listens at every address, with these pods; `attacker` may reach nobody and be reached by nobody.
fn node_with(pods: &[&str]) -> (Node, Enforcer) {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in pods {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let nobody = "policyTypes: [Ingress, Egress]";
    node.apply("shut", &policy("shut", "app: attacker", nobody));
    let open = [
        "--metrics-bind-addr=:8162",
        "--health-probe-bind-addr=:8163",
    ];
    let enforcer = Enforcer::begin(&node, &open);
    wait_until("the enforcer is ready", || {
        enforcer.readiness(&node).0 == 200
    });
    (node, enforcer)
}

/// The answer to a request from the pod; none if the connection is refused, reset or closed before it.
fn ask(from: &Pod, port: u16, path: &str) -> Option<String> {
    let address = SocketAddr::new(gateway(), port);
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(5));
    let mut stream = from.netns.run(connect).expect("enter a pod").ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    (!answer.is_empty()).then_some(answer)
}

/// A figure of a process's `status`, in kB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("VmRSS")
}

fn descriptors(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    open.expect("its descriptors").count()
}

/// Holds as many connections as it can, opening others for those that end, until it is told to stop.
fn hold(attacker: &Pod, opened: &AtomicUsize, stop: &AtomicBool) {
    let address = SocketAddr::new(gateway(), HEALTH);
    let hold = || {
        let mut held: Vec<Option<TcpStream>> = Vec::new();
        held.resize_with(CONNECTIONS, || None);
        while !stop.load(Ordering::Relaxed) {
            for place in &mut held {
                let is_open = place.as_mut().is_some_and(|stream| {
                    let mut byte = [0];
                    let read = stream.read(&mut byte);
                    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
                });
                if !is_open && !stop.load(Ordering::Relaxed) {
                    let limit = Duration::from_millis(200);
                    *place = TcpStream::connect_timeout(&address, limit).ok();
                    if let Some(stream) = place {
                        stream.set_nonblocking(true).expect("not to wait");
                    }
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    attacker.netns.run(hold).expect("enter a pod");
}

#[test]
fn attack_26_idle_connections_take_nothing_from_enforcement() {
    let (node, enforcer) = node_with(&["attacker", "victim", "client", "late"]);
    // Only now: the enforcer is to begin with what a process is given usually.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let chain = node.ptp(in_force(json!({})));
    let [attacker, victim, client] =
        ["attacker", "victim", "client"].map(|name| Pod::start(&node, &chain, name));
    assert!(arrives(&client.netns, &victim.netns, victim.addresses[0]));
    let answer = ask(&attacker, HEALTH, "/livez");
    assert!(
        answer.is_some_and(|said| said.contains(" 200 ")),
        "the attack is none"
    );

    let pid = enforcer.pid();
    let (files, kilobytes) = (descriptors(pid), memory(pid));
    let (opened, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| hold(&attacker, &opened, &stop));
        let checks = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("the attacker has opened its connections", || {
                opened.load(Ordering::Relaxed) >= CONNECTIONS
            });
            // The kubelet's probe is answered at once.
            assert_eq!(enforcer.readiness(&node).0, 200);
            node.apply("in", &policy("in", "app: victim", &lets_in("app: nobody")));
            wait_until("a new policy is in force", || {
                is_lost(&client.netns, &victim.netns, victim.addresses[0])
            });
            node.apply(
                "late-in",
                &policy("late-in", "app: late", &lets_in("app: nobody")),
            );
            let late = Pod::start(&node, &chain, "late");
            wait_until("a new pod is isolated", || {
                is_lost(&client.netns, &late.netns, late.addresses[0])
            });
            let (now, size) = (descriptors(pid), memory(pid));
            assert!(
                now <= files + DESCRIPTORS,
                "{now} descriptors, {files} before"
            );
            assert!(size <= kilobytes + MEMORY, "{size} kB, {kilobytes} before");
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = checks {
            std::panic::resume_unwind(panic);
        }
    });
    let refused = "podgate_http_connections_total{listener=\"health\",outcome=\"refused\"}";
    assert!(enforcer.metrics(&node).contains(refused));
}

#[test]
fn attack_26_a_loop_of_scrapes_is_served_within_a_budget() {
    const ATTEMPTS: usize = 400;
    let (node, enforcer) = node_with(&["attacker"]);
    let chain = node.ptp(in_force(json!({})));
    let attacker = Pod::start(&node, &chain, "attacker");
    let began = Instant::now();
    let served = (0..ATTEMPTS)
        .filter_map(|_| ask(&attacker, METRICS, "/metrics"))
        .filter(|said| said.contains("podgate_attachments"))
        .count();
    // Ten in each second, of which this may have seen the ends of two more.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    assert!(served > 0, "the attack is none");
    assert!(
        served <= 10 * seconds,
        "{served} scrapes were served within {seconds} s"
    );
    assert!(served < ATTEMPTS, "none was refused in {seconds} s");
    assert!(enforcer.metrics(&node).contains("podgate_attachments"));
}

#[test]
fn attack_26_no_pod_reaches_the_listeners_unless_told() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    node.apply("attacker", &pod("attacker", "app: attacker"));
    // A flag, so that the harness adds none of its own.
    let enforcer = Enforcer::begin(&node, &["--log-level=info"]);
    wait_until("the enforcer is ready", || {
        enforcer.readiness(&node).0 == 200
    });
    let chain = node.ptp(in_force(json!({})));
    let attacker = Pod::start(&node, &chain, "attacker");
    for (port, path) in [(HEALTH, "/livez"), (METRICS, "/metrics")] {
        assert_eq!(ask(&attacker, port, path), None, "{path}");
    }
    assert!(enforcer.metrics(&node).contains("podgate_attachments"));
}
