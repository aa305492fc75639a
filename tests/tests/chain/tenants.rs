// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attack 27 and its kind: what the owner of one namespace writes delays no other namespace, and takes no memory that the
//! enforcer does not have.

use std::fmt::Write;
use std::ops::Range;
use std::time::{Duration, Instant};

use podgate_abi::Direction;
use podgate_demo::cni::Conflist;
use podgate_tests::metrics::value_of;
use podgate_tests::node::{
    Api, Enforcer, Node, Pod, in_force, is_lost, lets_in, namespace, pod, policy, wait_until,
};
use serde_json::{Value, json};

/// When a change is late: the guarantee.
const DEADLINE: Duration = Duration::from_secs(1);

/// How long a turn of the engine may take, in which nothing else is answered. The guarantee is 50 ms, of a release
/// build on a machine that does nothing else; a plan that is made at once takes seconds in a debug build.
const TURN: Duration = Duration::from_millis(400);

/// A machine that is busy has this many times as long as it needs without the policies of the other namespace.
const BUSY: u32 = 3;

/// What the enforcer may take.
const MEMORY: u64 = 256 << 20;

/// How often the calm namespace changes beside each world.
const ROUNDS: usize = 6;

/// How many pods the other namespace has here.
const TENANTS: usize = 4;

/// What becomes of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// There is room for its policies.
    InForce,
    /// There is not: its pods are denied where these isolate.
    Suspended,
}
use Outcome::{InForce, Suspended};

/// What the owner of the namespace `large` writes. None of it lets its pods reach the other namespace.
type World = (&'static str, Outcome, Vec<String>);

/// Worlds in which something is worked out for every pair of something. A manifest is read as text, which a debug build does
/// slowly, so those of every run are no larger than need be.
fn worlds() -> Vec<World> {
    let mut worlds = vec![
        ("rules but for an address", Suspended, vec![nested(700)]),
        ("peers and ports", Suspended, vec![multiplying(1_900)]),
        ("blocks, and everything but 10/8", InForce, supersets(5_000)),
    ];
    if std::env::var_os("PODGATE_LONG").is_some() {
        worlds.extend([
            (
                "more rules but for an address",
                Suspended,
                vec![nested(4_500)],
            ),
            ("exceptions in a block", InForce, vec![exceptions(20_000)]),
            ("ports in a rule", InForce, vec![ports(20_000)]),
            ("selectors of what they exclude", InForce, excluding(100)),
            ("more of them", Suspended, excluding(1_000)),
            ("a selector of many values", InForce, values(4_000, 2_000)),
            ("of more values", Suspended, values(10_000, 2_000)),
            (
                "more blocks, and everything but 10/8",
                Suspended,
                supersets(20_000),
            ),
            ("addresses in nine policies", Suspended, addresses(31_000)),
            ("ports by every set of labels", Suspended, combining(11)),
        ]);
    }
    worlds
}

/// A policy of the namespace `large`, of these rules, for the pods with these labels.
fn of_pods(name: &str, labels: &str, rules: impl Iterator<Item = String>) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: large}}\n\
         spec:\n  podSelector: {{{labels}}}\n  policyTypes: [Egress]\n  egress:\n"
    );
    for rule in rules {
        writeln!(text, "  - {rule}").unwrap();
    }
    text
}

/// The same for all of its pods.
fn of_all(name: &str, rules: impl Iterator<Item = String>) -> String {
    of_pods(name, "", rules)
}

/// The `number`th of some addresses of no pod, as a block; no two are next to each other.
fn block(number: usize) -> String {
    let [_, high, middle, low] = (2 * number as u32).to_be_bytes();
    format!("198.{}.{middle}.{low}/32", 18 + high)
}

fn blocks(numbers: Range<usize>) -> String {
    let blocks = numbers.map(|number| format!("{{ipBlock: {{cidr: {}}}}}", block(number)));
    blocks.collect::<Vec<_>>().join(", ")
}

/// Rules that each allow everything but one address: at every boundary all others hold.
fn nested(rules: usize) -> String {
    let rule = |number| {
        let except = block(number);
        format!("{{to: [{{ipBlock: {{cidr: 128.0.0.0/1, except: [{except}]}}}}]}}")
    };
    of_all("nested", (0..rules).map(rule))
}

/// One rule in which peers and ports multiply.
fn multiplying(number: usize) -> String {
    let (to, ports) = (blocks(0..number), even_ports(number));
    let rule = format!("{{to: [{to}], ports: [{ports}]}}");
    of_all("multiplying", std::iter::once(rule))
}

fn even_ports(number: usize) -> String {
    let ports = (1..=number).map(|number| format!("{{port: {}}}", 2 * number));
    ports.collect::<Vec<_>>().join(", ")
}

fn exceptions(number: usize) -> String {
    let except: Vec<String> = (0..number).map(block).collect();
    let except = except.join(", ");
    let rule = format!("{{to: [{{ipBlock: {{cidr: 198.0.0.0/8, except: [{except}]}}}}]}}");
    of_all("exceptions", std::iter::once(rule))
}

fn ports(number: usize) -> String {
    let rule = format!(
        "{{to: [{}], ports: [{}]}}",
        blocks(0..1),
        even_ports(number)
    );
    of_all("ports", std::iter::once(rule))
}

/// Each pod is one that all policies but one find.
fn excluding(number: usize) -> Vec<String> {
    let policy = |number| {
        let found = format!("{{key: app, operator: NotIn, values: [p{number}]}}");
        let rule = format!("{{to: [{{podSelector: {{matchExpressions: [{found}]}}}}]}}");
        of_all(&format!("excluding{number}"), std::iter::once(rule))
    };
    (0..number).map(policy).chain(elsewhere(number)).collect()
}

fn values(number: usize, pods: usize) -> Vec<String> {
    let values: Vec<String> = (0..number).map(|number| format!("p{number}")).collect();
    let found = format!(
        "{{key: app, operator: In, values: [{}]}}",
        values.join(", ")
    );
    let rule = format!("{{to: [{{podSelector: {{matchExpressions: [{found}]}}}}]}}");
    let policy = of_all("values", std::iter::once(rule));
    std::iter::once(policy).chain(elsewhere(pods)).collect()
}

/// Pods of other nodes.
fn elsewhere(number: usize) -> impl Iterator<Item = String> {
    (0..number).map(|number| {
        let [high, low] = (number as u16).to_be_bytes();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}, namespace: large, labels: {{app: p{number}}}}}\n\
             spec: {{nodeName: other, containers: [{{name: c, image: none}}]}}\n\
             status: {{podIPs: [{{ip: 198.51.{high}.{low}}}]}}\n"
        )
    })
}

/// One pod's blocks, all of which are within what each of the others may reach at a port of its own.
pub(crate) fn supersets(number: usize) -> Vec<String> {
    let own = |pod| {
        let rule = format!(
            "{{to: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}}}], ports: [{{port: {}}}]}}",
            1_001 + pod
        );
        let labels = format!("matchLabels: {{app: tenant{pod}}}");
        of_pods(&format!("own{pod}"), &labels, std::iter::once(rule))
    };
    let rule = format!("{{to: [{}], ports: [{{port: 443}}]}}", blocks(0..number));
    let provider = of_pods(
        "provider",
        "matchLabels: {app: tenant0}",
        std::iter::once(rule),
    );
    (0..TENANTS).map(own).chain([provider]).collect()
}

/// A few rules, by a label each, and pods of other nodes with every set of these labels: each set may be reached at other
/// ports, which takes 48 chunks of them. It weighs less than what [`heavier`] says.
fn combining(labels: usize) -> Vec<String> {
    let port = |label: usize, protocol: usize, chunk: usize| {
        let name = ["TCP", "UDP", "SCTP"][protocol];
        let number = 4_096 * chunk + 1 + label + labels * (16 * protocol + chunk);
        format!("{{protocol: {name}, port: {number}}}")
    };
    let rule = |label| {
        let ports = (0..48).map(|place| port(label, place / 16, place % 16));
        let ports: Vec<String> = ports.collect();
        let found = format!("{{key: l{label}, operator: Exists}}");
        format!(
            "{{to: [{{podSelector: {{matchExpressions: [{found}]}}}}], ports: [{}]}}",
            ports.join(", ")
        )
    };
    let policy = of_all("combining", (0..labels).map(rule));
    let pods = elsewhere(1 << labels).enumerate().map(|(number, pod)| {
        let has = (0..labels).filter(|label| number & (1 << label) != 0);
        let has: Vec<String> = has.map(|label| format!(", l{label}: ''")).collect();
        let app = format!("app: p{number}");
        pod.replace(&app, &format!("{app}{}", has.concat()))
    });
    std::iter::once(policy).chain(pods).collect()
}

/// A policy of the calm namespace that weighs more than some that have no room.
fn heavier() -> String {
    let rule = format!("{{to: [{}]}}", blocks(0..600));
    let labels = "matchLabels: {app: anybody}";
    of_pods("heavier", labels, std::iter::once(rule)).replace("large", "default")
}

/// Nine policies of so many addresses each.
fn addresses(each: usize) -> Vec<String> {
    let policy = |policy| {
        let to = blocks(policy * each..(policy + 1) * each);
        let rule = format!("{{to: [{to}], ports: [{{port: 443}}]}}");
        of_all(&format!("addresses{policy}"), std::iter::once(rule))
    };
    (0..9).map(policy).collect()
}

/// The pods of the namespace `large` on this node.
pub(crate) struct Tenants(Vec<String>);

impl Tenants {
    /// Says that there are such pods.
    pub(crate) fn announce(node: &Node) -> Self {
        node.apply("large", &namespace("large"));
        let names: Vec<String> = (0..TENANTS).map(|it| format!("tenant{it}")).collect();
        for name in &names {
            let manifest = pod(name, &format!("app: {name}"));
            let in_large = manifest.replace("namespace: default", "namespace: large");
            node.apply(name, &in_large);
        }
        Self(names)
    }

    /// Starts them.
    pub(crate) fn start(&self, node: &Node, conflist: &Conflist) -> Vec<Pod> {
        let started = |name: &String| Pod::start_in(node, conflist, "large", name);
        self.0.iter().map(started).collect()
    }
}

/// Where the cluster's objects are.
enum Source<'a> {
    Files,
    Server(&'a Api),
}

impl Source<'_> {
    /// Says that there is a pod of this node, with this label.
    fn announce(&self, node: &Node, namespace: &str, name: &str, app: &str) {
        match self {
            Self::Files => node.apply(name, &pod(name, &format!("app: {app}"))),
            Self::Server(api) => api.create(
                "pods",
                namespace,
                name,
                json!({"app": app}),
                json!({"spec": {"nodeName": "node", "containers": [{"name": "c", "image": "none"}]}}),
            ),
        }
    }

    /// Has the policy `p` of the namespace `default` let pods with this label in to `web`.
    fn let_in(&self, node: &Node, app: &str) {
        match self {
            Self::Files => {
                let spec = lets_in(&format!("app: {app}"));
                node.apply("calm-policy", &policy("p", "app: web", &spec));
            }
            Self::Server(api) => {
                let from = json!([{"podSelector": {"matchLabels": {"app": app}}}]);
                let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": from}]});
                api.create(
                    "networkpolicies",
                    "default",
                    "p",
                    json!({}),
                    json!({"spec": spec}),
                );
            }
        }
    }
}

/// A namespace whose owner edits a policy and adds a pod again and again.
struct Calm<'a> {
    node: &'a Node,
    source: Source<'a>,
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
            let word = node.tables().read_word(slot, Direction::Ingress).unwrap();
            word.generation()
        };
        let before = generation();
        let began = Instant::now();
        self.source.let_in(node, &format!("a{}", self.edits));
        wait_until("the edit is in force", || generation() != before);
        let edit = began.elapsed();
        let name = format!("calm{}", self.edits);
        self.source.announce(node, "default", &name, "calm");
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
    // So small that larger ones are made beside what the calm namespace does.
    let node = Node::new();
    node.apply("default", &namespace("default"));
    for name in ["web", "anybody"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply("heavier", &heavier());
    let announced = Tenants::announce(&node);
    let mut enforcer = Enforcer::start_within(&node, MEMORY);
    let conflist = node.ptp(in_force(json!({})));
    let [web, anybody] = ["web", "anybody"].map(|name| Pod::start(&node, &conflist, name));
    let tenants = announced.start(&node, &conflist);
    let mut calm = Calm {
        node: &node,
        source: Source::Files,
        conflist,
        web,
        pods: Vec::new(),
        edits: 0,
    };
    let at = anybody.addresses[0];
    let is_suspended = || {
        let (status, text) = enforcer.readiness(&node);
        assert_eq!(status, 200, "{text}");
        text.contains("warning: namespace large is suspended")
    };
    let longest_turn = || {
        let metrics = enforcer.metrics(&node);
        let longest = value_of(&metrics, "podgate_turn_seconds{quantile=\"1\"}");
        Duration::from_secs_f64(longest.expect("turns"))
    };
    let deadline = DEADLINE.max(BUSY * calm.slowest());
    let longest = TURN.max(BUSY * longest_turn());
    for (world, outcome, manifests) in worlds() {
        for tenant in &tenants {
            wait_until("the tenant is open", || {
                !is_lost(&tenant.netns, &anybody.netns, at)
            });
        }
        node.apply("tenants-policies", &manifests.join("---\n"));
        let slowest = calm.slowest();
        let turn = longest_turn();
        println!("{world}: {slowest:?} of {deadline:?}, a turn {turn:?} of {longest:?}");
        assert!(slowest <= deadline, "{world}: {slowest:?} of {deadline:?}");
        assert!(turn <= longest, "{world}: {turn:?} of {longest:?}");
        let is = |outcome| outcome == Suspended;
        wait_until(&format!("{world}: {outcome:?}"), || {
            is_suspended() == is(outcome)
        });
        for tenant in &tenants {
            wait_until(&format!("{world}: the tenant is isolated"), || {
                is_lost(&tenant.netns, &anybody.netns, at)
            });
        }
        node.withdraw("tenants-policies");
        wait_until("the tenant has its room again", || !is_suspended());
    }
    assert!(enforcer.is_running());
}

/// Policies of the namespace `large` that select none of its pods, of a megabyte each.
fn for_nobody(api: &Api, number: usize) {
    for policy in 0..number {
        let to: Vec<Value> = (0..24_000)
            .map(|label| json!({"podSelector": {"matchLabels": {format!("k{label}"): format!("v{policy}")}}}))
            .collect();
        let spec = json!({"podSelector": {"matchLabels": {"app": "nobody"}}, "policyTypes": ["Egress"], "egress": [{"to": to}]});
        let name = format!("nobody{policy}");
        api.create(
            "networkpolicies",
            "large",
            &name,
            json!({}),
            json!({"spec": spec}),
        );
    }
}

/// A pod with ten thousand ports of one name, and nine thousand rules that give that name.
fn called_alike(api: &Api) {
    let port = |number: usize| json!([{"name": "p", "containerPort": number}]);
    let containers: Vec<Value> = (0..10_000)
        .map(|number| json!({"name": format!("c{number}"), "image": "none", "ports": port(1 + 2 * number)}))
        .collect();
    let spec = json!({"nodeName": "node", "containers": containers});
    api.create(
        "pods",
        "large",
        "tenant",
        json!({"app": "tenant"}),
        json!({"spec": spec}),
    );
    let rules: Vec<Value> = (0..9_000)
        .map(|number| {
            let from = json!([{"ipBlock": {"cidr": block(number)}}]);
            json!({"from": from, "ports": [{"port": "p"}, {"port": 1 + number, "protocol": "UDP"}]})
        })
        .collect();
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules});
    api.create(
        "networkpolicies",
        "large",
        "alike",
        json!({}),
        json!({"spec": spec}),
    );
}

/// A Service of so many endpoints.
fn endpoints(api: &Api, slices: usize) {
    let port = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let spec = json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": port});
    api.create(
        "services",
        "large",
        "many",
        json!({}),
        json!({"spec": spec}),
    );
    for slice in 0..slices {
        let endpoint = |number: usize| {
            let number = 1_000 * slice + number;
            let [_, high, middle, low] = (number as u32).to_be_bytes();
            let pod = format!("pod-with-a-name-that-is-long-{number}");
            json!({
                "addresses": [format!("198.{}.{middle}.{low}", 18 + high)], "nodeName": format!("node-{number}"),
                "targetRef": {"kind": "Pod", "namespace": "large", "name": pod, "uid": format!("{number:036}")},
            })
        };
        let all: Vec<Value> = (0..1_000).map(endpoint).collect();
        let rest = json!({"addressType": "IPv4", "ports": port, "endpoints": all});
        let labels = json!({"kubernetes.io/service-name": "many"});
        api.create(
            "endpointslices",
            "large",
            &format!("many-{slice}"),
            labels,
            rest,
        );
    }
}

/// A Service whose addresses, ports and endpoints multiply to twenty million, in two objects of 44 KB.
fn many_of_all(api: &Api) {
    let ports = |first: usize| {
        let port = |number| json!({"name": format!("p{number}"), "port": first + number, "protocol": "TCP"});
        (0..100).map(port).collect::<Vec<Value>>()
    };
    let external: Vec<String> = (0..200).map(|it| format!("203.0.113.{it}")).collect();
    let spec = json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "externalIPs": external, "ports": ports(1_000)});
    api.create("services", "large", "all", json!({}), json!({"spec": spec}));
    let endpoint =
        |number: usize| json!({"addresses": [format!("198.20.{}.{}", number >> 8, number & 255)]});
    let all: Vec<Value> = (0..1_000).map(endpoint).collect();
    let rest = json!({"addressType": "IPv4", "ports": ports(2_000), "endpoints": all});
    let labels = json!({"kubernetes.io/service-name": "all"});
    api.create("endpointslices", "large", "all-0", labels, rest);
}

/// What one tenant has the enforcer store takes no memory that the enforcer does not have. All of it comes to one node.
/// How long that takes is a matter of how fast a build reads megabytes: the calm namespace's rounds begin when all of
/// it has come.
#[test]
fn attack_27_one_tenants_objects_do_not_exhaust_memory() {
    let node = Node::new();
    let api = Api::start(&node);
    for name in ["default", "large"] {
        api.create("namespaces", "", name, json!({}), json!({}));
    }
    let source = Source::Server(&api);
    for (namespace, name) in [
        ("default", "web"),
        ("default", "anybody"),
        ("large", "tenant"),
    ] {
        source.announce(&node, namespace, name, name);
    }
    let mut enforcer = Enforcer::start_within_by_api_server(&node, MEMORY, &api.url());
    let conflist = node.ptp(in_force(json!({})));
    let [web, anybody] = ["web", "anybody"].map(|name| Pod::start(&node, &conflist, name));
    let tenant = Pod::start_in(&node, &conflist, "large", "tenant");
    let mut calm = Calm {
        node: &node,
        source,
        conflist,
        web,
        pods: Vec::new(),
        edits: 0,
    };
    let deadline = DEADLINE.max(BUSY * calm.slowest());
    let warnings = |enforcer: &Enforcer, of: &str| {
        let (status, text) = enforcer.readiness(&node);
        assert_eq!(status, 200, "{text}");
        let of = format!("warning: namespace large is suspended: its {of}");
        text.lines().filter(|line| line.starts_with(&of)).count()
    };
    let is_long = std::env::var_os("PODGATE_LONG").is_some();
    let at = tenant.addresses[0];
    assert!(!is_lost(&anybody.netns, &tenant.netns, at));
    many_of_all(&api);
    called_alike(&api);
    wait_until("its rules weigh too much", || {
        warnings(&enforcer, "policies weigh") == 1
    });
    wait_until("the tenant is isolated", || {
        is_lost(&anybody.netns, &tenant.netns, at)
    });
    for_nobody(&api, if is_long { 60 } else { 30 });
    wait_until("its policies take too much", || {
        warnings(&enforcer, "networkpolicies take") == 1
    });
    if is_long {
        endpoints(&api, 280);
        wait_until("its endpoints take too much", || {
            warnings(&enforcer, "endpointslices take") == 1
        });
    }
    // It comes after all of that.
    calm.round();
    let slowest = calm.slowest();
    println!("{slowest:?} of {deadline:?}");
    assert!(slowest <= deadline, "{slowest:?} of {deadline:?}");
    assert!(
        is_lost(&anybody.netns, &tenant.netns, at),
        "it stays isolated"
    );
    assert!(enforcer.is_running());
}
