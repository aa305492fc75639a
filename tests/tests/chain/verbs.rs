// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verbs of CNI, on the real binary.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use aya::maps::{Array, Map, MapData};
use podgate_abi::{Address, Class, Direction, PeerWord, PolicyWord, RulesetId};
use podgate_datapath::attach::{FilterStatus, filter_status};
use podgate_datapath::lock::Lock;
use podgate_datapath::owed::Owed;
use podgate_datapath::tables::MapName;
use podgate_handoff::{Reply, Request, read_frame, write_frame};
use podgate_tests::kernel::ATTACHMENT_WORDS;
use podgate_tests::node::{Call, Node, Pod, arrives, unpoliced};
use serde_json::{Value, json};

/// Behind whom podgate stands.
type MainPlugin = fn(&Node, Value) -> podgate_demo::cni::Conflist;

fn polices(main: MainPlugin) {
    let node = Node::new();
    let conflist = main(&node, json!({}));
    let pod = Pod::start(&node, &conflist, "a");
    let other = Pod::start(&node, &conflist, "b");
    assert_eq!(pod.addresses.len(), 2);
    let record = pod.record(&node);
    assert!(pod.addresses.iter().all(|ip| record.addresses.contains(ip)));
    assert_ne!(record.slot, other.record(&node).slot);
    assert_eq!(
        node.run(|| filter_status(&record)).unwrap(),
        FilterStatus::InForce
    );
    for address in &pod.addresses {
        assert!(arrives(&other.netns, &pod.netns, *address), "{address}");
    }
    let result = pod.result.as_deref().unwrap();
    node.run(|| node.chain(&conflist).check(&pod.sandbox, result))
        .unwrap();

    pod.del(&node, &conflist).unwrap();
    other.del(&node, &conflist).unwrap();
    assert!(node.records().is_empty());
    assert!(node.veths().iter().all(|veth| !node.has_filter(veth)));
}

#[test]
fn a_pod_behind_ptp_is_policed_from_add_to_del() {
    polices(Node::ptp);
}

#[test]
fn a_pod_behind_bridge_is_policed_from_add_to_del() {
    polices(Node::bridge);
}

/// A pod with the interface of `ptp` alone, and a configuration of podgate for it with this `prevResult`.
fn behind_ptp(node: &Node, version: &str, prev_result: &str) -> (Pod, Call) {
    let alone = unpoliced(node.ptp(json!({})));
    let pod = Pod::start(node, &alone, "a");
    let call = Call::new("ADD")
        .of(&pod.container_id, pod.netns.path())
        .stdin(stdin(node, version, json!({}), Some(prev_result)));
    (pod, call)
}

/// A configuration, with a `prevResult` that is put in as it is written.
fn stdin(node: &Node, version: &str, settings: Value, prev_result: Option<&str>) -> String {
    let mut config = node.podgate(settings);
    config["cniVersion"] = version.into();
    config["name"] = "net".into();
    let text = config.to_string();
    match prev_result {
        None => text,
        Some(result) => {
            format!("{}, \"prevResult\": {result}}}", text.trim_end_matches('}'))
        }
    }
}

#[test]
fn a_result_is_echoed_byte_for_byte_in_every_version() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let node = Node::new();
        let odd = format!(
            r#"{{ "cniVersion":"{version}",  "x-ours": 1e2, "big": 123456789012345678901234567890,
            "interfaces": [{{"name":"veth0","mac":"no mac"}}],"ips":[{{"version":"4","address":"10.96.0.2/24"}}],
            "dns": {{}}, "\u0061": "\u00e9"  }}"#
        );
        let (pod, call) = behind_ptp(&node, version, &odd);
        assert_eq!(call.make(&node).ok().stdout, odd, "{version}");
        assert!(node.has_filter(&pod.host_end(&node)));
    }
}

#[test]
fn a_result_without_interfaces_or_addresses_is_enough() {
    let node = Node::new();
    let (pod, call) = behind_ptp(&node, "1.0.0", "{}");
    assert_eq!(call.make(&node).ok().stdout, "{}");
    // The kernel says what its addresses are.
    let record = pod.record(&node);
    assert!(pod.addresses.iter().all(|ip| record.addresses.contains(ip)));
}

#[test]
fn an_add_without_a_result_is_a_wrong_configuration() {
    let node = Node::new();
    let (_pod, call) = behind_ptp(&node, "1.0.0", "{}");
    call.stdin(stdin(&node, "1.0.0", json!({}), None))
        .make(&node)
        .refused(7, "prevResult");
    assert!(node.records().is_empty());
}

#[test]
fn an_unknown_version_is_named() {
    let node = Node::new();
    let (_pod, call) = behind_ptp(&node, "1.0.0", "{}");
    call.stdin(stdin(&node, "2.0.0", json!({}), Some("{}")))
        .make(&node)
        .refused(1, "2.0.0");
}

#[test]
fn del_succeeds_whatever_is_missing() {
    let node = Node::new();
    let del = |container: &str, netns: &str| {
        Call::new("DEL")
            .of(container, Path::new("/nowhere"))
            .env("CNI_NETNS", netns)
            .stdin(stdin(&node, "1.0.0", json!({}), None))
    };
    // Nothing was ever done on this node.
    del("unknown", "").make(&node).ok();
    let (pod, add) = behind_ptp(&node, "1.0.0", "{}");
    add.make(&node).ok();
    del("unknown", "").make(&node).ok();
    assert_eq!(node.records().len(), 1);
    let host_end = pod.host_end(&node);
    for _ in 0..2 {
        let answer = del(&pod.container_id, "").make(&node).ok();
        assert_eq!(answer.stdout, "");
        assert!(node.records().is_empty());
        assert!(!node.has_filter(&host_end));
    }
    // Neither a configuration nor anything else that could be read.
    del(&pod.container_id, "/nowhere")
        .stdin("{")
        .make(&node)
        .ok();
    Call::new("DEL").make(&node).ok();
}

#[test]
fn del_takes_an_attachment_away_whose_interface_has_gone() {
    let node = Node::new();
    let conflist = node.ptp(json!({}));
    let pod = Pod::start(&node, &conflist, "a");
    let slot = pod.record(&node).slot;
    node.sh(&format!("ip link del {}", pod.host_end(&node)));
    Call::new("DEL")
        .of(&pod.container_id, pod.netns.path())
        .stdin(stdin(&node, "1.0.0", json!({}), None))
        .make(&node)
        .ok();
    assert!(node.records().is_empty());
    let attachment = node.tables().read_attachment(slot).unwrap();
    assert_eq!(attachment.origin().birth(), 0);
}

#[test]
fn check_says_what_is_missing() {
    let node = Node::new();
    let (pod, add) = behind_ptp(&node, "1.0.0", "{}");
    let check = Call::new("CHECK")
        .of(&pod.container_id, pod.netns.path())
        .stdin(stdin(&node, "1.0.0", json!({}), Some("{}")));
    check.make(&node).refused(105, "there is no attachment");
    add.make(&node).ok();
    check.make(&node).ok();
    let host_end = pod.host_end(&node);
    node.sh(&format!("tc filter del dev {host_end} egress pref 2"));
    check.make(&node).refused(105, "is missing on interface");
    // ADD repeated puts it right.
    add.make(&node).ok();
    check.make(&node).ok();
}

/// GC forgets what the runtime does not list, in its own network only.
#[test]
fn gc_forgets_what_is_not_listed_in_its_own_network_only() {
    let node = Node::new();
    let conflist = node.ptp(json!({}));
    let kept = Pod::start(&node, &conflist, "kept");
    let gone = Pod::start(&node, &conflist, "gone");
    let mut other = conflist.clone();
    other.name = "other".into();
    let elsewhere = Pod::start(&node, &other, "elsewhere");
    let listed = json!([{"containerID": kept.container_id, "ifname": "eth0"}]);
    let settings = json!({"cni.dev/valid-attachments": listed});
    Call::new("GC")
        .stdin(stdin(&node, "1.1.0", settings, None))
        .make(&node)
        .ok();
    let mut left: Vec<_> = node.records().into_iter().map(|r| r.identity).collect();
    left.sort();
    let mut expected = vec![kept.identity(), elsewhere.identity()];
    expected.sort();
    assert_eq!(left, expected);
    assert!(!node.has_filter(&gone.host_end(&node)));
}

#[test]
fn status_needs_the_enforcer_in_strict_mode_only() {
    let node = Node::new();
    let status = |mode: &str| {
        let settings = json!({"enforcingMode": mode});
        Call::new("STATUS")
            .stdin(stdin(&node, "1.1.0", settings, None))
            .make(&node)
    };
    status("standard").ok();
    status("strict").refused(50, "enforcer");
}

#[test]
fn version_is_told_without_a_configuration() {
    let node = Node::new();
    let printed = Call::new("VERSION").make(&node).ok().stdout;
    let told: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        told["supportedVersions"],
        json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    );
}

/// An ADD that must not go on without the enforcer is undone, and is to be tried again.
#[test]
fn an_add_that_needs_the_enforcer_is_undone_without_it() {
    let node = Node::new();
    let (pod, call) = behind_ptp(&node, "1.0.0", "{}");
    let settings = json!({"onTimeout": "fail", "waitMs": 30});
    call.stdin(stdin(&node, "1.0.0", settings, Some("{}")))
        .make(&node)
        .refused(11, "enforcer");
    assert!(node.records().is_empty());
    assert!(!node.has_filter(&pod.host_end(&node)));
}

/// An ADD whose policy may not be in force says what is in force in each direction.
#[test]
fn an_add_not_in_force_says_what_is_in_each_direction() {
    const OPEN: RulesetId = RulesetId::ALLOW_ALL;
    const DENIED: RulesetId = RulesetId::DENY_ALL;
    let node = Node::new();
    let (pod, add) = behind_ptp(&node, "1.0.0", "{}");
    let add = |settings| {
        add.clone()
            .env("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=a")
            .stdin(stdin(&node, "1.0.0", settings, Some("{}")))
            .make(&node)
            .ok()
            .stderr
    };
    // Nobody answers.
    for (mode, says) in [
        (
            "standard",
            ": for now the pod's ingress is open and its egress open\n",
        ),
        (
            "strict",
            ": for now the pod's ingress is denied and its egress denied\n",
        ),
    ] {
        let said = add(json!({"enforcingMode": mode, "waitMs": 30}));
        assert!(said.ends_with(says), "{mode}: {said}");
    }
    // An enforcer has isolated it in some direction when it gives up, or when it does not know the pod.
    let failed = || Reply::Failed("no".into());
    for ([ingress, egress], reply, says) in [
        (
            [DENIED, OPEN],
            failed(),
            "no: for now the pod's ingress is denied and its egress open\n",
        ),
        (
            [RulesetId(7), DENIED],
            failed(),
            "no: for now the pod's ingress is decided by a ruleset and its egress denied\n",
        ),
        (
            [OPEN, DENIED],
            Reply::Unknown,
            "not know the pod yet: for now the pod's ingress is open and its egress denied\n",
        ),
    ] {
        let socket = node.paths().run.join("cni.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let said = thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                read_frame::<Request>(&mut stream).unwrap();
                let (slot, tables) = (pod.record(&node).slot, node.tables());
                for (direction, ruleset) in Direction::BOTH.into_iter().zip([ingress, egress]) {
                    let word = PolicyWord::new(ruleset, tables.draw_generation().unwrap().0);
                    tables.store_word(slot, direction, word).unwrap();
                }
                write_frame(&mut stream, reply).unwrap();
            });
            add(json!({"waitMs": 25_000}))
        });
        assert!(said.ends_with(says), "{said}");
        fs::remove_file(socket).unwrap();
    }
    // The record of isolated namespaces cannot be read.
    fs::write(node.paths().isolated(), "nonsense").unwrap();
    let said = add(json!({"waitMs": 30}));
    let says = ": for now the pod's ingress is denied and its egress denied (read the record";
    assert!(said.contains(says), "{said}");
}

#[test]
fn an_add_repeated_that_fails_leaves_the_attachment_as_it_was() {
    let node = Node::new();
    let (pod, add) = behind_ptp(&node, "1.0.0", "{}");
    add.make(&node).ok();
    let host_end = pod.host_end(&node);
    let record = pod.record(&node);
    let stands = || {
        assert_eq!(pod.record(&node), record);
        assert_eq!(node.records().len(), 1);
        assert_eq!(
            node.run(|| filter_status(&record)).unwrap(),
            FilterStatus::InForce
        );
        assert_eq!(node.tables().born().unwrap(), [record.slot]);
    };
    // Somebody stands before us by now.
    node.sh(&format!(
        "tc filter add dev {host_end} ingress pref 1 protocol all u32 match u32 0 0 action mirred egress redirect dev lo"
    ));
    add.make(&node).refused(104, "pref 1");
    node.sh(&format!("tc filter del dev {host_end} ingress pref 1"));
    stands();
    // Its file cannot be written.
    let in_the_way = node
        .paths()
        .attachment(&pod.identity())
        .with_extension("new");
    fs::create_dir(&in_the_way).unwrap();
    assert!(!add.make(&node).success);
    stands();
    fs::remove_dir(&in_the_way).unwrap();
    add.make(&node).ok();
    assert_ne!(pod.record(&node).birth, record.birth);
}

/// A repeated ADD that fails leaves the filters of an attachment that cannot be put back.
#[test]
fn a_failed_repeated_add_keeps_filters_it_cannot_put_back() {
    let node = Node::new();
    let (pod, add) = behind_ptp(&node, "1.0.0", "{}");
    add.make(&node).ok();
    let record = pod.record(&node);
    // The current table set does not know it, as while an enforcer starts.
    let pin = node.tables().pin(MapName::Attachments);
    let map = Map::Array(MapData::from_pin(pin).unwrap());
    let mut attachments: Array<_, [u64; ATTACHMENT_WORDS]> = map.try_into().unwrap();
    attachments
        .set(record.slot.0, [0; ATTACHMENT_WORDS], 0)
        .unwrap();
    // And its file cannot be written.
    let file = node.paths().attachment(&pod.identity());
    fs::create_dir(file.with_extension("new")).unwrap();
    assert!(!add.make(&node).success);

    assert_eq!(pod.record(&node), record);
    assert_eq!(
        node.run(|| filter_status(&record)).unwrap(),
        FilterStatus::InForce
    );
    assert_eq!(node.tables().born().unwrap(), []);
}

/// An ADD that another filter stands in the way of forgets no address.
#[test]
fn an_obstructed_add_forgets_no_address() {
    let node = Node::new();
    Pod::start(&node, &node.ptp(json!({})), "first");
    let (pod, add) = behind_ptp(&node, "1.0.0", "{}");
    let address = pod.addresses[0];
    let known = PeerWord::new(Address::from(address), Class(7), Class::NONE, false);
    let lock = Lock::take(&node.paths()).unwrap();
    node.tables().put_peer(address, known, &lock).unwrap();
    drop(lock);
    let host_end = pod.host_end(&node);
    node.sh(&format!(
        "tc qdisc add dev {host_end} clsact; \
         tc filter add dev {host_end} ingress pref 1 protocol all u32 match u32 0 0 action mirred egress redirect dev lo"
    ));
    add.make(&node).refused(104, "pref 1");
    assert_eq!(node.tables().read_peer(address).unwrap(), Some(known));
    node.sh(&format!("tc filter del dev {host_end} ingress pref 1"));
    add.make(&node).ok();
    assert_eq!(node.tables().read_peer(address).unwrap(), None);
}

/// An address whose entry is gone already is judged again all the same. The process that deleted the entry owes it to
/// all attachments to judge their flows again, and may have died.
#[test]
fn an_address_whose_entry_is_gone_is_still_judged_again() {
    let node = Node::new();
    let victim = Pod::start(&node, &node.ptp(json!({})), "victim");
    let generation = || {
        let slot = victim.record(&node).slot;
        let word = node.tables().read_word(slot, Direction::Ingress).unwrap();
        word.generation()
    };
    let (pod, add) = behind_ptp(&node, "1.0.0", "{}");
    let address = pod.addresses[0];
    let known = PeerWord::new(Address::from(address), Class(7), Class::NONE, false);
    let lock = Lock::take(&node.paths()).unwrap();
    let tables = node.tables();
    tables.put_peer(address, known, &lock).unwrap();
    tables
        .remove_peer(address, Owed::ByEnforcer, &lock)
        .unwrap();
    drop(lock);
    let before = generation();
    Pod::start(&node, &node.ptp(json!({})), "elsewhere");
    assert_eq!(generation(), before, "it has an address of its own");
    add.make(&node).ok();
    let after = generation();
    assert_ne!(before, after, "the dead pod's flows go on as the new pod's");
    // Nobody owes anything any more.
    Pod::start(&node, &node.ptp(json!({})), "another");
    assert_eq!(generation(), after);
}

#[test]
fn an_add_repeated_replaces_the_attachment() {
    let node = Node::new();
    let (pod, add) = behind_ptp(&node, "1.0.0", "{}");
    add.make(&node).ok();
    let first = pod.record(&node);
    add.make(&node).ok();
    let second = pod.record(&node);
    assert_ne!(first.birth, second.birth);
    assert_eq!(node.records().len(), 1);
    assert_eq!(
        node.run(|| filter_status(&second)).unwrap(),
        FilterStatus::InForce
    );
    if first.slot != second.slot {
        let old = node.tables().read_attachment(first.slot).unwrap();
        assert_eq!(old.origin().birth(), 0);
    }
}
