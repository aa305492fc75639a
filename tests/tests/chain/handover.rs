// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An address that passes from pod to pod while policies change, and a swap that comes too late.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use podgate_datapath::lock::Lock;
use podgate_tests::node::{
    Enforcer, LOST, Node, Pod, in_force, lets_in, namespace, pod, policy, wait_until,
};
use serde_json::json;

/// An address that passes from a friend to a stranger is judged by the pod that has it.
#[test]
fn an_address_that_changes_hands_is_judged_by_its_holder() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "friend", "stranger"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    let _enforcer = Enforcer::start(&node);
    let web = Pod::start(&node, &node.ptp(in_force(json!({}))), "web");
    let server = web
        .netns
        .run(|| UdpSocket::bind(SocketAddr::new(web.addresses[0], 7777)).unwrap())
        .unwrap();
    let addresses = json!([{"address": "10.96.0.200/24", "gateway": "10.96.0.1"}]);
    let ipam = json!({"type": "static", "addresses": addresses, "routes": [{"dst": "0.0.0.0/0"}]});
    let conflist = node.conflist(json!({"type": "ptp", "ipam": ipam}), in_force(json!({})));

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Policies are refined and rewritten all the time; who may come in stays the same.
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                let spec = lets_in(&format!("mood: m{}", number % 5));
                node.apply("other", &policy("q", "app: web", &spec));
                thread::sleep(LOST / 20);
            }
        });
        for round in 0..16 {
            let is_friend = round % 2 == 0;
            let name = if is_friend { "friend" } else { "stranger" };
            let holder = Pod::start(&node, &conflist, name);
            // The same ports each time: what the one before was allowed would fit.
            let own = SocketAddr::new(holder.addresses[0], 5555);
            let socket = holder.netns.run(|| UdpSocket::bind(own).unwrap()).unwrap();
            let limit = if is_friend { 25 * LOST } else { LOST };
            server.set_read_timeout(Some(limit)).unwrap();
            let data = format!("{round}");
            for _ in 0..2 {
                let target = server.local_addr().unwrap();
                socket.send_to(data.as_bytes(), target).unwrap();
                let mut buffer = [0; 8];
                let got = server.recv(&mut buffer).map(|length| &buffer[..length]);
                match got {
                    Ok(got) => assert!(is_friend && got == data.as_bytes(), "round {round}"),
                    Err(_) => assert!(!is_friend, "round {round}"),
                }
            }
            if round % 4 < 2 {
                holder.del(&node, &conflist).unwrap();
            } else {
                node.sh(&format!("ip link del {}", holder.host_end(&node)));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    wait_until("only the server is left", || node.records().len() == 1);
}

#[test]
fn a_swap_never_makes_a_filter_on_an_interface_that_has_none() {
    let node = Node::new();
    let web = Pod::start(&node, &node.ptp(json!({})), "web");
    let record = web.record(&node);
    let host_end = web.host_end(&node);
    let tables = node.tables();
    let swap = || {
        let lock = Lock::take(&node.paths()).unwrap();
        node.run(|| tables.swap(&record, &lock))
    };
    swap().unwrap();
    node.sh(&format!("tc filter del dev {host_end} ingress pref 2"));
    assert!(swap().is_err());
    node.sh(&format!("tc filter del dev {host_end} egress pref 2"));
    assert!(swap().is_err());
    assert!(!node.has_filter(&host_end));

    // Another interface has the number by now.
    let number = record.host_ifindex.0;
    node.sh(&format!(
        "ip link del {host_end} && ip link add again index {number} type veth peer name far"
    ));
    assert!(swap().is_err());
    assert!(!node.has_filter("again"));
}
