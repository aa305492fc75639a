// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A pod's own end is hostile ground: nothing that is done there changes a verdict or removes a filter.
//!
//! Each operation is first done in a pod without podgate, where its datagrams must reach the far side, and then in one that
//! is denied everything, where none may.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use podgate_datapath::attach::{FilterStatus, filter_status};
use podgate_tests::ground::{HostEnd, OPERATIONS, Operation, Scene, xdp_object};
use podgate_tests::node::{
    Enforcer, LOST, Node, Pod, in_force, namespace, pod, policy, unpoliced, wait_until,
};
use serde_json::json;

/// The far side: a socket for each operation, so that nothing late is taken for another's.
struct Far {
    pod: Pod,
}

impl Far {
    fn count(socket: &UdpSocket, limit: Duration) -> usize {
        socket.set_read_timeout(Some(limit)).expect("a limit");
        let mut buffer = [0; 2048];
        let first = usize::from(socket.recv(&mut buffer).is_ok());
        socket.set_nonblocking(true).expect("set nonblocking");
        let more = std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count();
        first + more
    }

    fn socket(&self) -> UdpSocket {
        let at = SocketAddr::new(self.pod.addresses[0], 0);
        let bound = self.pod.netns.run(|| UdpSocket::bind(at).expect("bind"));
        bound.expect("enter the far side")
    }
}

/// Does an operation in a pod that is left as it is then; what it said, and what arrived.
fn perform(
    node: &Node,
    far: &Far,
    pod: &Pod,
    operation: &Operation,
    object: &str,
) -> (String, usize) {
    let socket = far.socket();
    let IpAddr::V4(address) = pod.addresses[0] else {
        panic!("an IPv4 address");
    };
    let script = Scene {
        address: &address.to_string(),
        gateway: "10.96.0.1",
        gateway_mac: node.mac(&pod.host_end(node)),
        far: &far.pod.addresses[0].to_string(),
        port: socket.local_addr().expect("an address").port(),
        object,
    }
    .script(operation);
    let output = pod
        .netns
        .run(|| Command::new("bash").args(["-ec", &script]).output())
        .expect("enter the pod")
        .expect("run bash");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{operation}: {said}");
    let limit = if operation.carries { 5 * LOST } else { LOST };
    (said, Far::count(&socket, limit))
}

/// Every operation of this share of the table.
fn perform_all(share: usize, of: usize) {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "far"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply(
        "policy",
        &policy("p", "app: web", "policyTypes: [Ingress, Egress]"),
    );
    let enforcer = Enforcer::start(&node);
    let policed = node.ptp(in_force(json!({})));
    let bare = unpoliced(policed.clone());
    let far = Far {
        pod: Pod::start(&node, &policed, "far"),
    };
    let object = node.dir().join("programs.o");
    std::fs::write(&object, xdp_object()).expect("write an object");
    let object = object.display().to_string();
    for operation in OPERATIONS.iter().skip(share).step_by(of) {
        let twin = Pod::start(&node, &bare, "web");
        let (said, arrived) = perform(&node, &far, &twin, operation, &object);
        assert_eq!(
            arrived > 0,
            operation.carries,
            "{operation} without podgate: {arrived}; {said}"
        );
        drop(twin);

        let web = Pod::start(&node, &policed, "web");
        let record = web.record(&node);
        let (said, arrived) = perform(&node, &far, &web, operation, &object);
        assert_eq!(arrived, 0, "{operation} led past the policy; {said}");
        match operation.host_end {
            HostEnd::Stands => {
                let stands = node
                    .run(|| filter_status(&record))
                    .expect("look at the interface");
                assert_eq!(stands, FilterStatus::InForce, "{operation}");
                assert_eq!(web.record(&node), record, "{operation}");
            }
            HostEnd::Gone => wait_until("the attachment goes with its host end", || {
                node.records()
                    .iter()
                    .all(|it| it.identity != record.identity)
            }),
        }
        wait_until("the enforcer is ready", || {
            enforcer.readiness(&node).0 == 200
        });
    }
}

#[test]
fn what_a_pod_does_to_its_own_end_changes_no_verdict_1() {
    perform_all(0, 3);
}

#[test]
fn what_a_pod_does_to_its_own_end_changes_no_verdict_2() {
    perform_all(1, 3);
}

#[test]
fn what_a_pod_does_to_its_own_end_changes_no_verdict_3() {
    perform_all(2, 3);
}
