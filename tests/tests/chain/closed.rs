// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No pod starts, or stays, open under a policy that the node knows, whatever is the matter: a table of ways in which
//! knowledge, asking or writing fails, each with a pod that is added during it and one that runs.

mod ways;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podgate_abi::{Direction, RulesetId};
use podgate_datapath::isolated;
use podgate_datapath::lock::Lock;
use podgate_tests::node::{
    Api, Enforcer, Node, Pod, Traffic, arrives, in_force, is_lost, lets_in, namespace, pod, policy,
    wait_until,
};
use serde_json::json;
use ways::{Late, WAYS, Way, full};

/// A small file system on a run directory, until the value is dropped.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        // What cannot be unmounted stays for the one who looks into the failed test.
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

/// A node on whose run directory there is little room, with an enforcer, a policed pod and a stranger.
fn scene() -> (Node, Small, Enforcer, [Pod; 2]) {
    let node = Node::new();
    let run = node.paths().run;
    let sizes = fs::read(node.paths().config()).expect("the sizes of tables");
    mount(
        Some("podgate-test"),
        &run,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=256k,mode=0700"),
    )
    .expect("mount a small run directory");
    let small = Small(run);
    fs::write(node.paths().config(), sizes).expect("the sizes of tables");
    node.apply("namespace", &namespace("default"));
    for name in ["web", "web-2", "stranger"] {
        let app = name.split('-').next().unwrap_or(name);
        node.apply(name, &pod(name, &format!("app: {app}")));
    }
    node.apply("policy", &policy("p", "app: web", &lets_in("app: none")));
    let enforcer = Enforcer::start(&node);
    let conflist = node.ptp(in_force(json!({})));
    let pods = ["web", "stranger"].map(|name| Pod::start(&node, &conflist, name));
    (node, small, enforcer, pods)
}

fn is_right(way: &Way) {
    let (node, _small, enforcer, [web, stranger]) = scene();
    let denied = Traffic::denied(&stranger, &web, web.addresses[0]);
    let _held = (way.begin)(&node, enforcer);
    let mut late = Pod::bare("default", way.adds);
    let added = late.add(&node, &node.ptp(json!({"waitMs": 400})));
    let what = way.name;
    assert_eq!(
        added.is_err(),
        way.late == Late::Refused,
        "{what}: {added:?}"
    );
    let reaches = |from: &Pod, to: &Pod, at: IpAddr, should: bool| {
        let right = match should {
            true => arrives(&from.netns, &to.netns, at),
            false => is_lost(&from.netns, &to.netns, at),
        };
        assert!(right, "{what}: {at} should be reached: {should}");
    };
    for (at, back) in late.addresses.iter().zip(&stranger.addresses) {
        let (into, out) = match way.late {
            Late::Denied => (false, true),
            Late::DeniedBoth => (false, false),
            Late::Baseline => (true, true),
            Late::Refused => unreachable!("a pod whose ADD failed has no address"),
        };
        reaches(&stranger, &late, *at, into);
        reaches(&late, &stranger, *back, out);
        // The packet is real: the node reaches the pod.
        assert!(arrives(&node.netns, &late.netns, *at), "{what}: {at}");
    }
    let sent = denied.sent();
    wait_until("the stranger goes on", || denied.sent() > sent + 50);
    assert_eq!(denied.wrong(), 0, "{what}: the running pod was reached");
}

#[test]
fn closed_whatever_fails_no_pod_is_open_under_a_known_policy() {
    // Each on a node of its own; some at a time.
    let ways = std::sync::Mutex::new(WAYS.iter());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = ways.lock().expect("no thread panics with it").next();
                    let Some(way) = next else { return };
                    is_right(way);
                }
            });
        }
    });
}

#[test]
fn closed_a_full_run_directory_keeps_no_policy_out_of_force() {
    let (node, _small, enforcer, [web, stranger]) = scene();
    node.apply("elsewhere", &{
        let elsewhere = pod("elsewhere", "app: none").replace("nodeName: node", "nodeName: other");
        format!(
            "{elsewhere}status: {{podIP: 10.99.0.1, podIPs: [{{ip: 10.99.0.1}}], phase: Running}}\n"
        )
    });
    let address = IpAddr::from([10, 99, 0, 1]);
    wait_until("the peer is known", || {
        node.tables().read_peer(address).unwrap().is_some()
    });
    full(&node);
    node.withdraw("elsewhere");
    wait_until("the peer is gone", || {
        node.tables().read_peer(address).unwrap().is_none()
    });
    assert!(arrives(&web.netns, &stranger.netns, stranger.addresses[0]));
    let all = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: default}\n\
               spec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n";
    node.apply("all", all);
    wait_until("the policy is in force", || {
        is_lost(&web.netns, &stranger.netns, stranger.addresses[0])
    });
    // The record is written in place.
    let both = || isolated::look_up(&node.paths(), "default").unwrap() == isolated::Isolation::BOTH;
    wait_until("the record says so", both);
    drop(enforcer);
}

/// A policy that comes while no change can be made isolates at once.
#[test]
fn closed_a_new_policy_isolates_at_once_without_the_lock() {
    let (node, _small, enforcer, [web, stranger]) = scene();
    let words = || {
        let slot = stranger.record(&node).slot;
        Direction::BOTH.map(|side| node.tables().read_word(slot, side).unwrap().ruleset())
    };
    assert_eq!(words(), [RulesetId::ALLOW_ALL; 2]);
    let lock = Lock::take(&node.paths()).unwrap();
    node.apply("new", &policy("new", "app: stranger", &lets_in("app: web")));
    wait_until("the pod is isolated without the lock", || {
        is_lost(&web.netns, &stranger.netns, stranger.addresses[0])
    });
    assert_eq!(words(), [RulesetId::DENY_ALL, RulesetId::ALLOW_ALL]);
    assert!(enforcer.log().contains("isolated until"));
    // It is withdrawn before it can have been in force.
    node.withdraw("new");
    drop(lock);
    wait_until("the pod is open again", || {
        arrives(&web.netns, &stranger.netns, stranger.addresses[0])
    });
    node.apply("new", &policy("new", "app: stranger", &lets_in("app: web")));
    wait_until("the policy is in force", || words()[0] >= RulesetId::FIRST);
    assert!(arrives(&web.netns, &stranger.netns, stranger.addresses[0]));
}

/// An unknown pod is as open as the policies of its namespace are.
#[test]
fn closed_an_unknown_pod_is_as_open_as_its_namespace() {
    let (node, _small, enforcer, [_web, stranger]) = scene();
    let late = Pod::start(&node, &node.ptp(json!({"waitMs": 10_000})), "unheard");
    let (into, out) = (late.addresses[0], stranger.addresses[0]);
    assert!(is_lost(&stranger.netns, &late.netns, into));
    assert!(arrives(&late.netns, &stranger.netns, out));
    node.withdraw("policy");
    wait_until("nothing may isolate it", || {
        arrives(&stranger.netns, &late.netns, into)
    });
    node.apply("policy", &policy("p", "app: web", &lets_in("app: none")));
    wait_until("a policy may isolate it", || {
        is_lost(&stranger.netns, &late.netns, into)
    });
    node.apply("unheard", &pod("unheard", "app: other"));
    wait_until("none does", || arrives(&stranger.netns, &late.netns, into));
    drop(enforcer);
}

/// A node whose enforcer follows an API server with a stranger, and with a pod that has not been added yet.
fn scene_with_api_server() -> (Node, Api, Enforcer, Pod) {
    let node = Node::new();
    let api = Api::start(&node);
    api.create("namespaces", "", "default", json!({}), json!({}));
    for name in ["stranger", "late"] {
        let spec = json!({"nodeName": "node", "containers": [{"name": "c", "image": "none"}]});
        api.create(
            "pods",
            "default",
            name,
            json!({"app": name}),
            json!({"spec": spec}),
        );
    }
    let enforcer = Enforcer::begin_with_api_server(&node, &api.url());
    wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
    let stranger = Pod::start(&node, &node.ptp(in_force(json!({}))), "stranger");
    (node, api, enforcer, stranger)
}

fn deny_all(api: &Api) {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    api.create(
        "networkpolicies",
        "default",
        "deny-all",
        json!({}),
        json!({"spec": spec}),
    );
}

/// An ADD after an outage is not answered by what was known before.
#[test]
fn closed_an_add_after_an_outage_gets_no_stale_answer() {
    let (node, api, enforcer, stranger) = scene_with_api_server();
    api.goes_away(true);
    // The pauses between attempts grow meanwhile.
    let tried = "podgate_watch_failures_total{kind=\"networkpolicies\"";
    wait_until("the watch has failed some times", || {
        let metrics = enforcer.metrics(&node);
        let failures = metrics.lines().filter(|line| line.starts_with(tried));
        let failures = failures.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        failures.sum::<f64>() >= 5.0
    });
    deny_all(&api);
    api.goes_away(false);
    let late = Pod::start(&node, &node.ptp(in_force(json!({}))), "late");
    for at in &late.addresses {
        assert!(is_lost(&stranger.netns, &late.netns, *at), "{at}");
        assert!(arrives(&node.netns, &late.netns, *at), "{at}");
    }
    wait_until("the running pod is isolated", || {
        is_lost(&late.netns, &stranger.netns, stranger.addresses[0])
    });
}

/// A pod that cannot be asked for is denied where its namespace is isolated.
#[test]
fn closed_a_pod_is_denied_while_it_cannot_be_asked_for() {
    let (node, api, enforcer, stranger) = scene_with_api_server();
    deny_all(&api);
    let late = Pod::start(&node, &node.ptp(in_force(json!({}))), "late");
    wait_until("the policy is in force", || {
        is_lost(&late.netns, &stranger.netns, stranger.addresses[0])
    });
    api.goes_away(true);
    wait_until("the API server is missed", || {
        enforcer.log().contains("list or watch failed")
    });
    wait_until("it is said that what is known may be too old", || {
        let (status, said) = enforcer.readiness(&node);
        status == 200 && said.contains("warning: the API server is asked for each new pod")
    });
    let unheard = Pod::start(&node, &node.ptp(json!({"waitMs": 4000})), "unheard");
    assert!(is_lost(
        &stranger.netns,
        &unheard.netns,
        unheard.addresses[0]
    ));
    assert!(arrives(&node.netns, &unheard.netns, unheard.addresses[0]));
}
