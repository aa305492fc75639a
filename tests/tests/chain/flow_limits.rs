// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many flows a pod may have, what is said before that bites, and flows that either end may begin.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use podgate_tests::node::{
    Enforcer, LOST, Node, Pod, in_force, lets_in, namespace, pod, policy, wait_until,
};
use serde_json::json;

/// An enforcer whose node tracks 4,096 flows, and which lets a pod have so many of them.
fn with_limit(node: &Node, of_one: &str) -> Enforcer {
    let enforcer = Enforcer::begin(
        node,
        &[
            "--metrics-bind-addr=127.0.0.1:8162",
            "--health-probe-bind-addr=127.0.0.1:8163",
            "--conntrack-cache-table-size=4096",
            &format!("--max-flows-per-pod={of_one}"),
        ],
    );
    wait_until("the enforcer is ready", || {
        enforcer.readiness(node).0 == 200
    });
    enforcer
}

/// The two of `flow-budget.yaml` of the cases: a pod that nobody may open to, and whom it holds connections to.
fn gateway_and_backend(node: &Node) {
    node.apply("namespace", &namespace("default"));
    for name in ["gateway", "backend"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    let spec = format!(
        "{}, egress: [{{to: [{{podSelector: {{matchLabels: {{app: backend}}}}}}]}}]",
        "policyTypes: [Ingress, Egress]"
    );
    node.apply("policy", &policy("gateway", "app: gateway", &spec));
}

/// So many connections, held at both ends.
fn connections(from: &Pod, to: &Pod, number: u32) -> Vec<[TcpStream; 2]> {
    let at = SocketAddr::new(to.addresses[0], 0);
    let listener = to.netns.run(|| TcpListener::bind(at).unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let connect = || {
        let client = TcpStream::connect_timeout(&target, 25 * LOST).unwrap();
        [client, listener.accept().unwrap().0]
    };
    let all = || (0..number).map(|_| connect()).collect();
    from.netns.run(all).unwrap()
}

#[test]
fn case_05_a_pod_has_as_many_flows_as_the_flag_says() {
    const OF_ONE: u32 = 200;
    let node = Node::new();
    gateway_and_backend(&node);
    let enforcer = with_limit(&node, &OF_ONE.to_string());
    let chain = node.ptp(in_force(json!({})));
    let [gateway, backend] = ["gateway", "backend"].map(|name| Pod::start(&node, &chain, name));
    let flows = |pod: &Pod| node.tables().read_budget(pod.record(&node).slot).unwrap()[0];
    let name = "pod default/gateway uses 80 %";
    let [before, _] = [&gateway, &backend].map(flows);
    assert_eq!(before, 0);

    let mut held = connections(&gateway, &backend, OF_ONE * 3 / 4);
    assert_eq!(flows(&gateway), u64::from(OF_ONE * 3 / 4));
    let metrics = enforcer.metrics(&node);
    assert!(
        metrics.contains("podgate_pod_flows_highest_share 0.75"),
        "{metrics}"
    );
    assert!(
        metrics.contains("podgate_pods_near_flow_limit 0"),
        "{metrics}"
    );
    assert!(!enforcer.readiness(&node).1.contains(name));

    held.extend(connections(&gateway, &backend, OF_ONE));
    // No more than that stand among those which nobody takes away.
    assert_eq!(flows(&gateway), u64::from(OF_ONE));
    let metrics = enforcer.metrics(&node);
    assert!(
        metrics.contains("podgate_pod_flows_highest_share 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("podgate_pods_near_flow_limit 2"),
        "{metrics}"
    );
    let (code, says) = enforcer.readiness(&node);
    assert!(code == 200 && says.contains(name), "{says}");
    assert!(enforcer.log().contains("default/gateway"));
    enforcer.kill();

    // With room for all of them they enter it, each with its next packet.
    let enforcer = with_limit(&node, "2000");
    for [client, _] in &mut held {
        use std::io::Write;
        client.write_all(b"x").unwrap();
    }
    wait_until("all flows have room", || {
        flows(&gateway) == held.len() as u64
    });
    assert!(!enforcer.readiness(&node).1.contains(name));
}

#[test]
fn a_limit_that_is_more_than_half_of_the_flows_is_refused() {
    let node = Node::new();
    let mut enforcer = Enforcer::begin(
        &node,
        &[
            "--conntrack-cache-table-size=4096",
            "--max-flows-per-pod=3000",
        ],
    );
    wait_until("the enforcer ends", || !enforcer.is_running());
    let log = enforcer.log();
    assert!(log.contains("--conntrack-cache-table-size 6000"), "{log}");
}

/// `symmetric-udp.yaml` of the cases, and mirrored.
#[test]
fn case_04_what_nothing_isolates_arrives_whoever_spoke_first() {
    for (direction, policy_types) in [
        ("egress", "policyTypes: [Egress]".to_owned()),
        ("ingress", lets_in("app: nobody")),
    ] {
        let node = Node::new();
        node.apply("namespace", &namespace("default"));
        for name in ["a", "b"] {
            node.apply(name, &pod(name, &format!("app: {name}")));
        }
        let _enforcer = Enforcer::start(&node);
        let chain = node.ptp(in_force(json!({})));
        let [a, b] = ["a", "b"].map(|name| Pod::start(&node, &chain, name));
        for family in 0..2 {
            let [here, there] = [&a, &b].map(|pod| {
                let at = SocketAddr::new(pod.addresses[family], 7946);
                let socket = pod.netns.run(|| UdpSocket::bind(at).unwrap()).unwrap();
                socket.set_read_timeout(Some(LOST)).unwrap();
                (socket, at)
            });
            let is_heard = |from: &(UdpSocket, SocketAddr), to: &(UdpSocket, SocketAddr)| {
                from.0.send_to(b"hello", to.1).unwrap();
                to.0.recv_from(&mut [0; 8]).is_ok()
            };
            // Who is isolated for what it sends spoke first; mirrored, whose packets are.
            let (isolated, other) = if direction == "egress" {
                (&here, &there)
            } else {
                (&there, &here)
            };
            wait_until("they talk in peace", || {
                is_heard(isolated, other) && is_heard(other, isolated)
            });
            node.apply("policy", &policy("p", "app: a", &policy_types));
            wait_until("the policy is in force", || !is_heard(isolated, other));
            let heard = (0..3).filter(|_| is_heard(other, isolated)).count();
            assert_eq!(heard, 3, "{direction}, family {family}");
            // And is answered.
            assert!(is_heard(isolated, other));
            node.withdraw("policy");
        }
    }
}
