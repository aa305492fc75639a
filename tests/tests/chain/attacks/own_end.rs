// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a process with `CAP_NET_ADMIN` in the pod's network namespace does to the pod's own end of its interface.

use std::fs;
use std::time::{Duration, Instant};

use podgate_datapath::mark;
use podgate_datapath::netlink::Socket;
use podgate_demo::cni::Conflist;
use podgate_demo::netns::NetNs;
use podgate_tests::metrics::value_of;
use podgate_tests::node::{
    Enforcer, Frames, Node, Pod, arrives, in_force, is_lost, sh, unpoliced, wait_until,
};
use serde_json::json;

use super::Receiver;

fn scene() -> Node {
    Node::that_denies_web(&["friend", "twin"])
}

fn start(node: &Node, name: &str) -> Pod {
    Pod::start(node, &node.ptp(in_force(json!({}))), name)
}

/// Moves `eth0` into a network namespace that a process of the pod made, where it gets another number, and gives it
/// its address and routes there.
fn move_into_a_child(node: &Node, pod: &Pod) -> NetNs {
    let child = NetNs::create(node.dir().join(format!("child-of-{}", pod.container_id)))
        .expect("make a namespace");
    // The number that the interface has in the pod is taken there.
    let number = pod.record(node).pod_ifindex.0;
    sh(
        &child,
        &format!("ip link add taken index {number} type veth peer name other index 900"),
    );
    pod.sh(&format!(
        "ip link set eth0 netns {}",
        child.path().display()
    ));
    let address = pod.addresses[0];
    sh(
        &child,
        &format!(
            "ip link set eth0 up && ip addr add {address}/32 dev eth0 && \
             ip route add 10.96.0.1 dev eth0 && ip route add default via 10.96.0.1"
        ),
    );
    child
}

/// A counter of the guard, over these families.
fn counted(node: &Node, enforcer: &Enforcer, counter: &str, families: &[&str]) -> f64 {
    let metrics = enforcer.metrics(node);
    let of = |family| value_of::<f64>(&metrics, &format!("{counter}{{family=\"{family}\"}}"));
    families.iter().filter_map(of).sum()
}

/// What the pod sends goes to an `ifb`, which marks it to skip the next tc.
const FORWARD_TO_IFB: &str = "ip link add ifb0 type ifb && ip link set ifb0 up && nft add table netdev t && \
    nft add chain netdev t c '{ type filter hook egress device \"eth0\" priority 0; }' && \
    nft add rule netdev t c fwd to '\"ifb0\"'";

/// What is forwarded to an `ifb` comes back as what tc at the next interface does not look at.
fn skips_tc(node: &Node, chain: &Conflist, families: &[&str]) {
    let enforcer = Enforcer::start(node);
    let victim = Pod::start(node, chain, "friend");
    let receiver = Receiver::new(&victim.netns, victim.addresses[0]);
    for (chain, reaches) in [(unpoliced(chain.clone()), true), (chain.clone(), false)] {
        let attacker = Pod::start(node, &chain, "web");
        attacker.sh(FORWARD_TO_IFB);
        let data = attacker.container_id.clone().into_bytes();
        let socket = Receiver::new(&attacker.netns, attacker.addresses[0]);
        socket.0.send_to(&data, receiver.address()).expect("send");
        if reaches {
            assert!(receiver.gets(&data), "the attack is none");
        } else {
            assert!(receiver.misses(&data), "it arrived");
        }
    }
    wait_until("they are counted", || {
        counted(node, &enforcer, "podgate_unjudged_packets_total", families) > 0.0
    });
}

#[test]
fn attack_24_packets_that_skip_tc_at_the_host_end_go_nowhere() {
    let node = scene();
    skips_tc(&node, &node.ptp(in_force(json!({}))), &["inet", "arp"]);
}

#[test]
fn attack_24_packets_that_skip_tc_at_a_bridge_port_go_nowhere() {
    let node = scene();
    skips_tc(&node, &node.bridge(in_force(json!({}))), &["bridge"]);
}

#[test]
fn attack_25_an_end_moved_to_another_namespace_stays_policed() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let [web, twin, friend] = ["web", "twin", "friend"].map(|name| start(&node, name));
    let [child, child_of_twin] = [&web, &twin].map(|pod| move_into_a_child(&node, pod));
    let host_end = {
        let number = web.record(&node).host_ifindex;
        let listed = node.sh("ip -o link show type veth");
        let line = listed
            .lines()
            .find(|line| line.starts_with(&format!("{number}: ")));
        let name = line.and_then(|line| line.split([' ', '@']).nth(1));
        name.expect("the host end").to_owned()
    };
    let is_policed = || {
        assert!(node.has_filter(&host_end));
        assert!(web.record(&node).identity == web.identity());
        assert!(is_lost(&child, &friend.netns, friend.addresses[0]));
        assert!(is_lost(&friend.netns, &child, web.addresses[0]));
        let through = &child_of_twin;
        assert!(
            arrives(through, &friend.netns, friend.addresses[0]),
            "the attack is none"
        );
    };
    is_policed();
    // Somebody else's filter has the enforcer look at this interface.
    node.sh(&format!(
        "tc filter add dev {host_end} ingress pref 9 protocol all u32 match u32 0 0"
    ));
    wait_until("it was looked at", || enforcer.readiness(&node).0 == 200);
    is_policed();
    // A start looks at all of them.
    enforcer.kill();
    let enforcer = Enforcer::start(&node);
    is_policed();
    // And what the node's side loses is put back, wherever the pod's side is.
    node.sh(&format!("tc qdisc del dev {host_end} clsact"));
    wait_until("the filters are back", || node.has_filter(&host_end));
    wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
    is_policed();
}

#[test]
fn attack_32_an_enforcer_in_a_pod_puts_back_what_was_removed() {
    let node = scene();
    let enforcer = Enforcer::start_in_a_pod(&node);
    let [web, friend] = ["web", "friend"].map(|name| start(&node, name));
    let host_end = web.host_end(&node);
    assert!(is_lost(&web.netns, &friend.netns, friend.addresses[0]));
    for removal in [
        "tc qdisc del dev DEV clsact",
        "tc filter del dev DEV ingress pref 2",
    ] {
        node.sh(&removal.replace("DEV", &host_end));
        wait_until("it is back", || {
            let filters = |side| node.sh(&format!("tc filter show dev {host_end} {side}"));
            ["ingress", "egress"]
                .iter()
                .all(|side| filters(side).contains("podgate_"))
        });
        wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
        assert!(is_lost(&web.netns, &friend.netns, friend.addresses[0]));
        assert!(is_lost(&friend.netns, &web.netns, web.addresses[0]));
    }
}

/// Waits until `/readyz` warns of this, and prints how long it took; more than a second is too long.
fn is_told_of(node: &Node, enforcer: &Enforcer, what: &str) {
    let begin = Instant::now();
    wait_until("it is told of", || {
        let (status, said) = enforcer.readiness(node);
        status == 200 && said.contains("warning: ") && said.contains(what)
    });
    let took = begin.elapsed();
    println!("{what}: told of after {} ms", took.as_millis());
    assert!(took <= Duration::from_secs(1), "{what}: {took:?}");
    assert!(enforcer.log().contains(what));
}

#[test]
fn what_a_pod_makes_or_changes_on_the_node_is_told_of_in_time() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let web = start(&node, "web");
    let host_end = web.host_end(&node);
    let record = web.record(&node);
    // By the number that the pod's namespace has for the node's, a process in the pod makes a second way out.
    web.sh("ip link add way link-netnsid 0 type veth peer name out");
    assert!(
        node.veths().contains(&"out".to_owned()),
        "the attack is none"
    );
    is_told_of(
        &node,
        &enforcer,
        "(out) leads into the network namespace of attachment",
    );
    assert!(enforcer.metrics(&node).contains("podgate_unexplained 1"));
    web.sh("ip link del way");
    wait_until("it is over", || {
        !enforcer.readiness(&node).1.contains("(out)")
    });

    node.sh(&format!("ip link set {host_end} address 02:00:00:00:00:42"));
    is_told_of(&node, &enforcer, "its hardware address was another");
    node.sh(&format!(
        "ip link add switch type bridge && ip link set {host_end} master switch"
    ));
    is_told_of(&node, &enforcer, "it was not a port of");
    node.sh(&format!(
        "ip link set {host_end} down && ip link set {host_end} name renamed"
    ));
    is_told_of(&node, &enforcer, "its name was");
    // The group is what the guard goes by: it is set again.
    node.sh("ip link set renamed up && ip link set renamed group 0");
    let begin = Instant::now();
    wait_until("it is in its group again", || {
        node.run(|| {
            let mut socket = Socket::open().expect("a netlink socket");
            let link = socket
                .link_by_index(record.host_ifindex)
                .expect("the host end");
            mark::slot(&link) == Some(record.slot)
        })
    });
    println!(
        "its group was set again after {} ms",
        begin.elapsed().as_millis()
    );
    assert!(begin.elapsed() <= Duration::from_secs(1));
    assert!(node.has_filter("renamed"));
}

/// Only the file of its attachment explains the interface.
#[test]
fn an_interface_whose_add_was_not_handed_over_is_not_warned_of() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let socket = node.paths().run.join("cni.sock");
    fs::rename(&socket, socket.with_extension("away")).expect("the socket is away");
    let friend = Pod::start(&node, &node.ptp(json!({})), "friend");
    fs::rename(socket.with_extension("away"), &socket).expect("the socket is back");
    wait_until("it is known", || {
        let figures = enforcer.metrics(&node);
        figures.contains("podgate_attachments{state=\"in_force\"} 1")
    });
    // What comes later shows that nothing is to come of it.
    friend.sh("ip link add way link-netnsid 0 type veth peer name out");
    is_told_of(&node, &enforcer, "(out) leads into");
    let host_end = friend.host_end(&node);
    let of_it = format!("({host_end})");
    assert!(!enforcer.log().contains(&of_it), "{}", enforcer.log());
}

#[test]
fn a_guard_that_somebody_flushes_stands_again_in_time() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let tables = || node.sh("nft list tables");
    let families = ["inet", "arp", "bridge"];
    for family in families {
        assert!(
            tables().contains(&format!("table {family} podgate")),
            "{}",
            tables()
        );
    }
    // In an order of its own: the kernel's is that in which tables were made.
    let ruleset = || {
        let table =
            |family: &str| node.sh(&format!("nft list table {family} podgate 2>&1 || true"));
        families.map(table).concat()
    };
    // How often the enforcer found that something was missing, and put it back.
    let restored = || counted(&node, &enforcer, "podgate_guard_restored_total", &families);
    for deed in [
        "nft flush ruleset",
        "nft delete table bridge podgate",
        "nft flush chain inet podgate received",
        "nft insert rule arp podgate received accept",
        // As many rules of the same expressions, with another number.
        "nft 'flush chain bridge podgate delivered; \
         add rule bridge podgate delivered meta priority 7:7 counter drop'",
    ] {
        let (whole, before) = (ruleset(), restored());
        node.sh(deed);
        let begin = Instant::now();
        wait_until("something is put back", || restored() > before);
        let took = begin.elapsed();
        println!("{deed}: mended after {} ms", took.as_millis());
        assert!(took <= Duration::from_secs(1), "{deed}: {took:?}");
        wait_until("all of it stands again", || ruleset() == whole);
    }
    wait_until("it is counted", || {
        enforcer
            .metrics(&node)
            .contains("podgate_guard_restored_total{family=\"inet\"} 2")
    });
}

#[test]
fn without_its_filters_a_pod_sends_nothing() {
    let node = scene();
    let (web, friend) = (start_alone(&node, "web"), start_alone(&node, "friend"));
    assert!(arrives(&web.netns, &friend.netns, friend.addresses[0]));
    // No enforcer runs that would put them back.
    node.sh(&format!("tc qdisc del dev {} clsact", web.host_end(&node)));
    for address in &friend.addresses {
        assert!(is_lost(&web.netns, &friend.netns, *address), "{address}");
    }
    // DEL takes the mark away with the filters.
    let mut ours = node.ptp(json!({}));
    ours.plugins.retain(|plugin| plugin["type"] == "podgate");
    web.del(&node, &ours).expect("DEL");
    assert!(arrives(&web.netns, &friend.netns, friend.addresses[0]));
}

fn start_alone(node: &Node, name: &str) -> Pod {
    Pod::start(node, &node.ptp(json!({})), name)
}

#[test]
fn attack_24_a_bridge_learns_nothing_from_frames_that_skip_tc() {
    let node = scene();
    let chain = node.bridge(in_force(json!({})));
    let sends_from = |pod: &Pod, last: u8| {
        pod.sh(FORWARD_TO_IFB);
        // To the group of LLDP, which a bridge keeps for itself.
        let group = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
        let made_up = [2, 0, 0, 0, 0x77, last];
        let frame = [&group[..], &made_up, &[0x88, 0xcc], &[0; 50]].concat();
        Frames::on(&pod.netns, "eth0").send(&frame);
    };
    let has_learned = |last: u8| {
        let known = node.sh("bridge fdb show br cni0");
        known.contains(&format!("02:00:00:00:77:{last:02x}"))
    };
    let twin = Pod::start(&node, &unpoliced(chain.clone()), "twin");
    sends_from(&twin, 1);
    wait_until("a bridge learns from it", || has_learned(1));

    let enforcer = Enforcer::start(&node);
    let web = Pod::start(&node, &chain, "web");
    sends_from(&web, 2);
    let friend = Pod::start(&node, &chain, "friend");
    // What comes after it was learned, if anything.
    sends_from(&friend, 3);
    assert!(!has_learned(2) && !has_learned(3), "the bridge learned");
    // Somebody sets it back: so does the enforcer, when it looks.
    drop(enforcer);
    node.sh("ip link set cni0 type bridge no_linklocal_learn 0");
    let _enforcer = Enforcer::start(&node);
    wait_until("it is set again", || {
        node.sh("ip -d link show cni0")
            .contains("no_linklocal_learn 1")
    });
}
