//! Attack 27 and its kind: what the owner of one namespace writes delays no other namespace, and takes no memory that the
//! enforcer does not have.

use std::fmt::Write;
use std::time::{Duration, Instant};

use podgate_abi::Direction;
use podgate_demo::cni::Conflist;
use podgate_tests::node::{
    Enforcer, Node, Pod, arrives, in_force, is_lost, lets_in, namespace, pod, policy, wait_until,
};
use serde_json::json;

/// When a change is late: 1 s is the guarantee, which a release build is to give. These are debug builds, whose planner takes
/// several times as long. A machine that is busy has more time: as much as is late for it without the policies of the
/// other namespace, three times.
const DEADLINE: Duration = Duration::from_secs(4);

/// What the enforcer may take.
const MEMORY: u64 = 256 << 20;

/// How often the calm namespace changes beside each world.
const ROUNDS: usize = 6;

/// A policy of the namespace `large`.
fn large(name: &str, rules: impl Iterator<Item = String>) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: large}}\n\
         spec:\n  podSelector: {{}}\n  policyTypes: [Egress]\n  egress:\n"
    );
    for rule in rules {
        writeln!(text, "  - {rule}").unwrap();
    }
    text
}

// The worlds are no larger than need be: a manifest is read as text, which a debug build does slowly.

/// Rules that each allow everything but one address: at every boundary all others hold.
fn nested(rules: usize) -> String {
    let except = |number: usize| {
        format!(
            "198.{}.{}.{}/32",
            number >> 16,
            (number >> 8) & 255,
            number & 255
        )
    };
    let rule = |number| {
        format!(
            "{{to: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [{}]}}}}]}}",
            except(number)
        )
    };
    large("nested", (0..rules).map(rule))
}

/// One rule in which peers and ports multiply.
fn multiplying(number: usize) -> String {
    let peer = |n: usize| format!("{{ipBlock: {{cidr: 198.51.{}.{}/32}}}}", n >> 8, n & 255);
    let peers: Vec<String> = (0..number).map(peer).collect();
    let ports: Vec<String> = (1..=number)
        .map(|n| format!("{{port: {}}}", 2 * n))
        .collect();
    let rule = format!(
        "{{to: [{}], ports: [{}]}}",
        peers.join(", "),
        ports.join(", ")
    );
    large("multiplying", std::iter::once(rule))
}

/// A namespace whose owner edits a policy and adds a pod again and again.
struct Calm<'a> {
    node: &'a Node,
    conflist: Conflist,
    web: Pod,
    pods: Vec<Pod>,
    edits: usize,
}

impl Calm<'_> {
    /// One edit and one pod; how long the slower of them took.
    fn round(&mut self) -> Duration {
        let node = self.node;
        self.edits += 1;
        let slot = self.web.record(node).slot;
        let generation = || {
            let word = node.tables().read_word(slot, Direction::ToPod).unwrap();
            word.generation()
        };
        let before = generation();
        let spec = lets_in(&format!("app: a{}", self.edits));
        let began = Instant::now();
        node.apply("calm-policy", &policy("p", "app: web", &spec));
        wait_until("the edit is in force", || generation() != before);
        let edit = began.elapsed();
        let name = format!("calm{}", self.edits);
        node.apply(&name, &pod(&name, "app: calm"));
        let began = Instant::now();
        self.pods.push(Pod::start(node, &self.conflist, &name));
        edit.max(began.elapsed())
    }

    /// The slowest of some rounds, one each second.
    fn slowest(&mut self) -> Duration {
        let slowest = (0..ROUNDS).map(|_| {
            let began = Instant::now();
            let took = self.round();
            std::thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
            took
        });
        slowest.max().unwrap()
    }
}

#[test]
fn attack_27_what_one_tenant_writes_delays_no_other() {
    let node = Node::new();
    node.apply("default", &namespace("default"));
    node.apply("large", &namespace("large"));
    for name in ["web", "anybody"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let in_large = pod("tenant", "app: tenant").replace("namespace: default", "namespace: large");
    node.apply("tenant", &in_large);
    let mut enforcer = Enforcer::start_within(&node, MEMORY);
    let conflist = node.ptp(in_force(json!({})));
    let [web, anybody] = ["web", "anybody"].map(|name| Pod::start(&node, &conflist, name));
    let tenant = Pod::start_in(&node, &conflist, "large", "tenant");
    let mut calm = Calm {
        node: &node,
        conflist,
        web,
        pods: Vec::new(),
        edits: 0,
    };
    let deadline = DEADLINE.max(3 * calm.slowest());
    let at = anybody.addresses[0];
    let worlds = [("nested", nested(700)), ("multiplying", multiplying(1_900))];
    for (world, manifest) in worlds {
        assert!(arrives(&tenant.netns, &anybody.netns, at), "{world}");
        node.apply("tenants-policy", &manifest);
        let slowest = calm.slowest();
        println!("{world}: {slowest:?} of {deadline:?}");
        assert!(slowest <= deadline, "{world}: {slowest:?} of {deadline:?}");
        wait_until("the tenant is suspended", || {
            let (status, text) = enforcer.readiness(&node);
            status == 200 && text.contains("warning: namespace large is suspended")
        });
        assert!(is_lost(&tenant.netns, &anybody.netns, at), "{world}");
        node.withdraw("tenants-policy");
        wait_until("the tenant has its room again", || {
            let (status, text) = enforcer.readiness(&node);
            status == 200 && !text.contains("suspended")
        });
        wait_until("the tenant is open again", || {
            !is_lost(&tenant.netns, &anybody.netns, at)
        });
        assert!(enforcer.is_running(), "{world}");
    }
}
