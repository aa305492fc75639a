// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods that come and go in numbers, talking from their first instruction to their last.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write, stderr};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use podgate_tests::cluster::{
    Cluster, Heard, Listener, Namespace, Pod, PodSpec, Said, holds_within,
};

const PODS: usize = 40;
const ROUNDS: usize = 10;

/// How long all pods may take to come, or to go, on a busy machine.
const ROUND: Duration = Duration::from_secs(120);

/// The port that far sides listen at.
const PORT: u16 = 9000;

/// A Deployment of talkers, without pods yet. Each says its own name to all these places.
fn talkers(namespace: &Namespace<'_>, places: &[&Pod<'_>]) {
    let addresses = places.iter().flat_map(|pod| &pod.addresses);
    let targets: Vec<String> = addresses
        .flat_map(|address| {
            let place = std::net::SocketAddr::new(*address, PORT);
            ["udp", "tcp"].map(|protocol| format!("\"{protocol}:{place}\""))
        })
        .collect();
    namespace.apply(&format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: talkers}}, spec: {{replicas: 0, \
         selector: {{matchLabels: {{app: talker}}}}, template: {{metadata: {{labels: {{app: talker}}}}, spec: {{\
         terminationGracePeriodSeconds: 10, automountServiceAccountToken: false, containers: [{{name: talker, \
         image: 'podgate.test/talker:1', env: [{{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}], \
         args: [$(NAME), {}]}}]}}}}}}}}",
        targets.join(", ")
    ));
}

fn scale(namespace: &Namespace<'_>, pods: usize) {
    let replicas = format!("--replicas={pods}");
    namespace.kubectl(&["scale", "deployment/talkers", &replicas]);
}

fn are_gone(namespace: &Namespace<'_>) {
    let limit = format!("--timeout={}s", ROUND.as_secs());
    let gone = ["wait", "--for=delete", "pod", "-l", "app=talker", &limit];
    namespace.kubectl(&gone);
}

/// Counts packets of TCP and UDP to the port, in the pod's namespace: a packet that nobody listens to is one, too.
struct Counter<'a>(&'a Pod<'a>);

impl<'a> Counter<'a> {
    fn of(pod: &'a Pod<'a>) -> Self {
        let rules = format!(
            "add table inet far; add counter inet far talk; \
             add chain inet far in {{ type filter hook prerouting priority -300; }}; \
             add rule inet far in th dport {PORT} counter name talk"
        );
        pod.sh(&format!("nft '{rules}'"));
        Self(pod)
    }

    fn packets(&self) -> u64 {
        let said = self.0.sh("nft list counter inet far talk");
        let mut words = said
            .split_whitespace()
            .skip_while(|word| *word != "packets");
        let packets = words.nth(1).and_then(|count| count.parse().ok());
        packets.unwrap_or_else(|| panic!("a counter: {said}"))
    }
}

/// What one far side heard of all talkers, over all rounds.
#[derive(Debug, Default)]
struct Account {
    /// Who opened a connection: name and whether by IPv4.
    opened: BTreeSet<(String, bool)>,
    /// Whose connection was used to its end.
    closed: BTreeSet<(String, bool)>,
    /// What should not have been.
    wrong: Vec<String>,
    /// The number of the first datagram.
    first: BTreeMap<(String, bool), (u32, Instant)>,
}

impl Account {
    fn take(&mut self, heard: Vec<Heard>) {
        for heard in heard {
            let whose = (heard.talker.clone(), heard.is_ipv4);
            match heard.said {
                Said::Datagram(number) => {
                    self.first.entry(whose).or_insert((number, heard.at));
                }
                Said::Open(0) => {
                    self.opened.insert(whose);
                }
                Said::Bye => {
                    self.closed.insert(whose);
                }
                Said::Open(_) | Said::Lost => self.wrong.push(format!("{heard:?}")),
            }
        }
    }
}

/// When the API server said which addresses the pods of a namespace have, as a watch sees it.
fn addresses_told(namespace: &Namespace<'_>) -> Receiver<(String, Instant)> {
    let template = "jsonpath={.metadata.name} {.status.podIPs[*].ip}{\"\\n\"}";
    let watch = ["get", "pods", "-l", "app=talker", "--watch", "-o", template];
    let mut child = namespace
        .kubectl_command(&watch)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a watch");
    let (out, told) = mpsc::channel();
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some((name, addresses)) = line.split_once(' ')
                && !addresses.is_empty()
                && out.send((name.to_owned(), Instant::now())).is_err()
            {
                break;
            }
        }
        // The API server ends it when the namespace is gone, or nobody listens; it is nobody's loss.
        child.kill().ok();
        child.wait().ok();
    });
    told
}

/// Forty pods, ten times, send nothing that is denied and lose no connection that is allowed. The policies of the pods
/// deny everything, and then allow one far side and another one, which selects by label itself.
#[test]
fn forty_pods_ten_times_see_no_wrong_verdict() {
    let cluster = Cluster::enforced();
    let far = cluster.namespace("far");
    let [denied, allowed] =
        far.start(["denied", "allowed"].map(|name| PodSpec::new(name).on("node1")));
    let [picky] = far.start([PodSpec::new("picky").on("node2")]);
    let near = cluster.namespace("near");
    far.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: picky}, spec: {\
         podSelector: {matchLabels: {app: picky}}, policyTypes: [Ingress], ingress: [{from: [{\
         namespaceSelector: {matchLabels: {name: near}}, podSelector: {matchLabels: {app: talker}}}]}]}}",
    );
    near.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny-all}, \
         spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}",
    );
    near.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: allow}, spec: {\
         podSelector: {matchLabels: {app: talker}}, policyTypes: [Egress], egress: [{to: [{\
         namespaceSelector: {matchLabels: {name: far}}, podSelector: {matchLabels: {app: allowed}}}, {\
         namespaceSelector: {matchLabels: {name: far}}, podSelector: {matchLabels: {app: picky}}}]}]}}",
    );
    talkers(&near, &[&allowed, &denied, &picky]);
    let silence = Counter::of(&denied);
    let ears = [
        Listener::listen(&allowed, PORT),
        Listener::listen(&picky, PORT),
    ];
    let told = addresses_told(&near);
    let [mut open, mut chosen] = [Account::default(), Account::default()];

    for round in 1..=ROUNDS {
        scale(&near, PODS);
        let expected = round * PODS * 2;
        let all_are_heard = holds_within(ROUND, || {
            open.take(ears[0].heard());
            chosen.take(ears[1].heard());
            open.opened.len() + open.wrong.len() >= expected && chosen.first.len() >= expected
        });
        assert!(
            all_are_heard,
            "round {round}: {}",
            unheard(&near, &open, &chosen)
        );
        scale(&near, 0);
        are_gone(&near);
        let all_said_goodbye = holds_within(ROUND, || {
            open.take(ears[0].heard());
            open.closed.len() + open.wrong.len() >= expected
        });
        chosen.take(ears[1].heard());
        assert_eq!(open.wrong, [""; 0], "round {round}");
        assert_eq!(open.closed, open.opened, "round {round}");
        assert!(all_said_goodbye, "round {round}");
        let first = open.first.iter();
        let late: Vec<_> = first.filter(|(_, (number, _))| *number != 1).collect();
        assert!(
            late.is_empty(),
            "the first datagrams did not arrive: {late:?}"
        );
        assert_eq!(silence.packets(), 0, "round {round}");
    }
    report(&told, &chosen);
}

/// Who of the talkers that run now was not heard, by whom and by which family, and what the talkers themselves printed:
/// what fails is not tried again.
fn unheard(near: &Namespace<'_>, open: &Account, chosen: &Account) -> String {
    let names = near.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=talker",
        "-o",
        "jsonpath={.items[*].metadata.name}",
    ]);
    let whose: Vec<(String, bool)> = names
        .split_whitespace()
        .flat_map(|name| [true, false].map(|is_ipv4| (name.to_owned(), is_ipv4)))
        .collect();
    let connections = whose.iter().filter(|one| !open.opened.contains(one));
    let datagrams = whose.iter().filter(|one| !chosen.first.contains_key(one));
    let logs = ["logs", "-l", "app=talker", "--prefix", "--tail=-1"];
    format!(
        "talkers (and whether by IPv4) without a connection: {:?}; without a datagram that was let in: {:?}; \
         otherwise wrong: {:?}; their pods:\n{}\nwhat they printed:\n{}",
        connections.collect::<Vec<_>>(),
        datagrams.collect::<Vec<_>>(),
        open.wrong,
        near.kubectl(&["get", "pods", "-l", "app=talker", "-o", "wide"]),
        near.try_kubectl(&[&logs[..], &["--max-log-requests=100"]].concat())
            .unwrap_or_else(|error| error),
    )
}

/// Says how long a far side of another node that selects by label took from a pod's addresses in its status.
fn report(told: &Receiver<(String, Instant)>, chosen: &Account) {
    let mut addresses = BTreeMap::new();
    for (name, at) in told.try_iter() {
        addresses.entry(name).or_insert(at);
    }
    let mut lags: Vec<Duration> = chosen
        .first
        .iter()
        .filter_map(|((name, _), (_, at))| {
            Some(at.saturating_duration_since(*addresses.get(name)?))
        })
        .collect();
    lags.sort();
    let at = |share: usize| lags.get((lags.len() * share / 100).min(lags.len().saturating_sub(1)));
    // What is reported is for people: the test's own output is shown for tests that fail only.
    writeln!(
        stderr(),
        "from status.podIPs to the first packet let in by a far side that selects by label, {} of {}: \
         p50 {:?}, p99 {:?}, longest {:?}",
        lags.len(),
        chosen.first.len(),
        at(50),
        at(99),
        lags.last()
    )
    .expect("write to stderr");
}
