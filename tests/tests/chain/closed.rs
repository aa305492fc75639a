//! No pod starts, or stays, open under a policy that the node knows, whatever is the matter: a table of ways in which
//! knowledge, asking or writing fails, each with a pod that is added during it and one that runs.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use podgate_abi::{Direction, Ruleset};
use podgate_datapath::isolated;
use podgate_datapath::lock::Lock;
use podgate_tests::node::{
    Api, Enforcer, Node, Pod, Traffic, arrives, in_force, is_lost, lets_in, namespace, pod, policy,
    wait_until,
};
use serde_json::json;

/// What a way leaves running until the probes are over.
type Held = Box<dyn std::any::Any>;

/// What is to be seen of the pod that is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    /// Denied where the policy isolates, with its baseline in the other direction.
    Denied,
    /// Denied in both directions: the record does not say which.
    DeniedBoth,
    /// Nothing is known of policies: the baseline.
    Baseline,
    /// There is no such pod: its ADD fails.
    Refused,
}

/// One way to fail.
struct Way {
    name: &'static str,
    /// The pod that is added: `web-2`, which the source knows, or one that it does not know.
    adds: &'static str,
    begin: fn(&Node, Enforcer) -> Held,
    late: Late,
}

fn stopped(_: &Node, enforcer: Enforcer) -> Held {
    enforcer.signal(Signal::SIGSTOP);
    Box::new(enforcer)
}

fn killed(_: &Node, enforcer: Enforcer) -> Held {
    enforcer.kill();
    Box::new(())
}

fn kept(_: &Node, enforcer: Enforcer) -> Held {
    Box::new(enforcer)
}

/// Nobody is there, and the record says this.
fn recorded(
    node: &Node,
    enforcer: Enforcer,
    change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) -> Held {
    enforcer.kill();
    let path = node.paths().isolated();
    match change(fs::read(&path).expect("the enforcer has left a record")) {
        Some(bytes) => fs::write(&path, bytes).expect("write the record"),
        None => fs::remove_file(&path).expect("remove the record"),
    }
    Box::new(())
}

/// Somebody else answers on the socket: reads a little, says this, and closes.
fn answered(node: &Node, enforcer: Enforcer, says: &'static [u8]) -> Held {
    enforcer.kill();
    let socket = node.paths().run.join("cni.sock");
    fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket).expect("listen in place of the enforcer");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.read(&mut [0; 64]).ok();
            stream.write_all(says).ok();
        }
    });
    Box::new(())
}

fn framed(body: &'static str) -> &'static [u8] {
    let length = u32::try_from(body.len()).expect("a short body");
    let frame = [length.to_be_bytes().as_slice(), body.as_bytes()].concat();
    Box::leak(frame.into_boxed_slice())
}

/// The run directory on a file system of its own without a free block.
fn full(node: &Node) {
    let run = node.paths().run;
    let mut left = 1;
    let mut file = fs::File::create(run.join("filler")).expect("a file");
    while left > 0 {
        left = file.write(&[0; 4096]).unwrap_or(0);
    }
}

static WAYS: [Way; 22] = [
    Way {
        name: "killed",
        adds: "web-2",
        begin: killed,
        late: Late::Denied,
    },
    Way {
        name: "killed, and the pod is new to everybody",
        adds: "unheard",
        begin: killed,
        late: Late::Denied,
    },
    Way {
        name: "hung",
        adds: "web-2",
        begin: stopped,
        late: Late::Denied,
    },
    Way {
        name: "hung, and the pod is new to everybody",
        adds: "unheard",
        begin: stopped,
        late: Late::Denied,
    },
    Way {
        name: "a pod that the source does not know",
        adds: "unheard",
        begin: kept,
        late: Late::Denied,
    },
    Way {
        name: "starting, and the API server is away",
        adds: "web-2",
        begin: |node, enforcer| {
            enforcer.kill();
            Box::new(Enforcer::begin_without_api_server(node))
        },
        late: Late::Denied,
    },
    Way {
        name: "started anew, and the pod is new",
        adds: "unheard",
        begin: |node, enforcer| {
            enforcer.kill();
            Box::new(Enforcer::start(node))
        },
        late: Late::Denied,
    },
    Way {
        name: "its socket is gone",
        adds: "web-2",
        begin: |node, enforcer| {
            fs::remove_file(node.paths().run.join("cni.sock")).expect("remove the socket");
            Box::new(enforcer)
        },
        late: Late::Denied,
    },
    Way {
        name: "a file in place of its socket",
        adds: "web-2",
        begin: |node, enforcer| {
            enforcer.kill();
            let socket = node.paths().run.join("cni.sock");
            fs::remove_file(&socket).ok();
            fs::write(socket, "").expect("a file");
            Box::new(())
        },
        late: Late::Denied,
    },
    Way {
        name: "garbage answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, b"\0\0\0\x04oops"),
        late: Late::Denied,
    },
    Way {
        name: "nothing answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, b""),
        late: Late::Denied,
    },
    Way {
        name: "half a frame answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, b"\0\0\x01\0{\"version\":1"),
        late: Late::Denied,
    },
    Way {
        name: "another version answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, framed("{\"version\":9,\"body\":\"in_force\"}")),
        late: Late::Denied,
    },
    Way {
        name: "a failure answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, framed("{\"version\":1,\"body\":{\"failed\":\"no\"}}")),
        late: Late::Denied,
    },
    Way {
        name: "the record is empty",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |_| Some(Vec::new())),
        late: Late::DeniedBoth,
    },
    Way {
        name: "the record is cut",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |bytes| Some(bytes[..20].to_vec())),
        late: Late::DeniedBoth,
    },
    Way {
        name: "the record is garbage",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |_| Some(vec![0xff; 64])),
        late: Late::DeniedBoth,
    },
    Way {
        name: "the record is a newer version's",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |_| Some(b"podgate isolated 2\nend\n".to_vec())),
        late: Late::DeniedBoth,
    },
    Way {
        name: "there is no record",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |_| None),
        late: Late::Baseline,
    },
    Way {
        name: "the pins are gone, and nobody is there",
        adds: "web-2",
        begin: |node, enforcer| {
            enforcer.kill();
            fs::remove_file(node.paths().current()).expect("unpin the current set");
            Box::new(())
        },
        late: Late::Denied,
    },
    Way {
        name: "the manifest of the policy is broken",
        adds: "web-2",
        begin: |node, enforcer| {
            node.apply(
                "policy",
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {",
            );
            wait_until("that is told of", || enforcer.readiness(node).0 == 503);
            Box::new(enforcer)
        },
        late: Late::Denied,
    },
    Way {
        name: "the run directory is full, and nobody is there",
        adds: "web-2",
        begin: |node, enforcer| {
            enforcer.kill();
            full(node);
            Box::new(())
        },
        late: Late::Refused,
    },
];

/// A small file system on a run directory, until the value is dropped.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        // What cannot be unmounted stays for whoever looks after the failed test.
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
    node.apply("policy", &policy("p", "app: web", &lets_in("app: nobody")));
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
        let elsewhere =
            pod("elsewhere", "app: nobody").replace("nodeName: node", "nodeName: other");
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
    let both = || isolated::look_up(&node.paths(), "default").unwrap() == isolated::Isolated::BOTH;
    wait_until("the plugin is told", both);
    drop(enforcer);
}

#[test]
fn closed_a_policy_that_comes_while_no_change_can_be_made_isolates_at_once() {
    let (node, _small, enforcer, [web, stranger]) = scene();
    let words = || {
        let slot = stranger.record(&node).slot;
        Direction::BOTH.map(|side| node.tables().read_word(slot, side).unwrap().ruleset())
    };
    assert_eq!(words(), [Ruleset::ALLOW_ALL; 2]);
    let lock = Lock::take(&node.paths()).unwrap();
    node.apply("new", &policy("new", "app: stranger", &lets_in("app: web")));
    wait_until("the pod is isolated without the lock", || {
        is_lost(&web.netns, &stranger.netns, stranger.addresses[0])
    });
    assert_eq!(words(), [Ruleset::DENY_ALL, Ruleset::ALLOW_ALL]);
    // It is withdrawn before it was ever in force.
    node.withdraw("new");
    wait_until("that is read", || {
        enforcer.log().matches("isolated until").count() > 0
    });
    drop(lock);
    wait_until("the pod is open again", || {
        arrives(&web.netns, &stranger.netns, stranger.addresses[0])
    });
    node.apply("new", &policy("new", "app: stranger", &lets_in("app: web")));
    wait_until("the policy is in force", || words()[0] >= Ruleset::FIRST);
    assert!(arrives(&web.netns, &stranger.netns, stranger.addresses[0]));
}

#[test]
fn closed_an_unknown_pod_is_as_open_as_the_policies_of_its_namespace_are() {
    let (node, _small, enforcer, [_web, stranger]) = scene();
    let late = Pod::start(&node, &node.ptp(json!({"waitMs": 10_000})), "unheard");
    let (into, out) = (late.addresses[0], stranger.addresses[0]);
    assert!(is_lost(&stranger.netns, &late.netns, into));
    assert!(arrives(&late.netns, &stranger.netns, out));
    node.withdraw("policy");
    wait_until("nothing may isolate it", || {
        arrives(&stranger.netns, &late.netns, into)
    });
    node.apply("policy", &policy("p", "app: web", &lets_in("app: nobody")));
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

#[test]
fn closed_an_add_after_an_outage_is_not_answered_by_what_was_before() {
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

#[test]
fn closed_a_pod_that_nobody_can_be_asked_for_is_denied_where_its_namespace_is_isolated() {
    let (node, api, enforcer, stranger) = scene_with_api_server();
    deny_all(&api);
    let late = Pod::start(&node, &node.ptp(in_force(json!({}))), "late");
    wait_until("the policy is in force", || {
        is_lost(&late.netns, &stranger.netns, stranger.addresses[0])
    });
    api.goes_away(true);
    wait_until("the API server is missed", || {
        enforcer.log().contains("is not heard")
    });
    let unheard = Pod::start(&node, &node.ptp(json!({"waitMs": 4000})), "unheard");
    assert!(is_lost(
        &stranger.netns,
        &unheard.netns,
        unheard.addresses[0]
    ));
    assert!(arrives(&node.netns, &unheard.netns, unheard.addresses[0]));
}
