// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The API server is killed, and comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use podgate_tests::cluster::{Cluster, Enforcer, NODES, Pod, PodSpec, Readiness, wait_for};
use podgate_tests::metrics::value_of;

/// How long what must come may take on a busy machine. The watches come back a minute after the API server at most.
const COMES: Duration = Duration::from_secs(120);

/// How long what must not come is waited for.
const LOST: Duration = Duration::from_millis(400);

/// How long after the end of the API server something of it may still come in.
const MOMENT: Duration = Duration::from_secs(1);

/// The kinds that the source reads.
const KINDS: [&str; 6] = [
    "networkpolicies",
    "pods",
    "namespaces",
    "nodes",
    "services",
    "endpointslices",
];

/// Pods with the role that is named reach the servers, and nobody else does.
fn policy(role: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {{\
         podSelector: {{matchLabels: {{role: server}}}}, ingress: [{{\
         from: [{{podSelector: {{matchLabels: {{role: {role}}}}}}}], ports: [{{port: 80}}]}}]}}}}"
    )
}

/// How old the knowledge of a kind is, as the metric has it.
fn age(enforcer: &Enforcer, kind: &str) -> f64 {
    let metrics = enforcer.metrics();
    let age = format!("podgate_source_age_seconds{{kind=\"{kind}\"}}");
    value_of(&metrics, &age).unwrap_or_else(|| panic!("no age of {kind} in {metrics}"))
}

fn is_used(connection: &mut TcpStream) {
    let request = b"GET /echo?msg=here HTTP/1.1\r\nHost: server\r\n\r\n";
    connection.set_read_timeout(Some(COMES)).expect("a socket");
    connection.write_all(request).expect("send over it");
    let mut answer = [0; 1024];
    let length = connection.read(&mut answer).expect("an answer over it");
    assert!(answer[..length].ends_with(b"here"), "{answer:?}");
}

fn is_in_force(server: &Pod<'_>, client: &Pod<'_>, stranger: &Pod<'_>) {
    for address in &server.addresses {
        assert!(client.connects(*address, 80, COMES), "{address}");
        assert!(!stranger.connects(*address, 80, LOST), "{address}");
    }
}

/// Without the API server, what is in force stays, a known pod starts again, and changes follow later.
#[test]
fn without_the_api_server_what_is_in_force_stays() {
    let cluster = Cluster::alone();
    let enforcers = NODES.map(|node| cluster.enforcer(node));
    let namespace = cluster.namespace("outage");
    namespace.apply(&policy("client"));
    let spec = |name: &str, node| PodSpec::new(name).label("role", name).on(node);
    let [server, client, stranger] = namespace.start([
        spec("server", "node1"),
        spec("client", "node2"),
        spec("stranger", "node2"),
    ]);
    is_in_force(&server, &client, &stranger);
    let mut kept: Vec<TcpStream> = server
        .addresses
        .iter()
        .map(|address| client.connect(*address, 80, COMES).expect("a connection"))
        .collect();

    let outage = cluster.outage();
    let began = Instant::now();
    for connection in &mut kept {
        is_used(connection);
    }
    is_in_force(&server, &client, &stranger);

    let server = server.in_another_sandbox(COMES);
    for address in &server.addresses {
        let what = format!("the server answers at {address}");
        wait_for(&what, COMES, || {
            assert!(stranger.connect(*address, 80, LOST).is_err(), "{address}");
            client.connect(*address, 80, COMES).is_ok()
        });
    }

    for enforcer in &enforcers {
        for kind in KINDS {
            // What was on its way comes after the end of who sent it.
            let at_least = began.elapsed().saturating_sub(MOMENT).as_secs_f64();
            let said = age(enforcer, kind);
            assert!(said >= at_least, "{kind}: {said} s, and not {at_least}");
        }
        let Readiness::Ready(said) = enforcer.readiness() else {
            panic!("what is known is in force: {:?}", enforcer.readiness());
        };
        for kind in KINDS {
            assert!(said.contains(&format!("{kind}: as of ")), "{said}");
        }
    }
    is_in_force(&server, &client, &stranger);

    outage.end();
    namespace.apply(&policy("stranger"));
    for address in &server.addresses {
        wait_for("the stranger is let in", COMES, || {
            stranger.connect(*address, 80, LOST).is_ok()
        });
        assert!(!client.connects(*address, 80, LOST), "{address}");
    }
    for enforcer in &enforcers {
        for kind in KINDS {
            let what = format!("{kind} are known again");
            wait_for(&what, COMES, || {
                age(enforcer, kind) < began.elapsed().as_secs_f64()
            });
        }
        enforcer.wait_until_ready(COMES);
    }
}
