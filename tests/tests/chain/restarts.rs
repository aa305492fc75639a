// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Enforcers that are killed, started again, started twice, and healed.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use podgate_abi::{Direction, PolicyWord};
use podgate_datapath::attach::{FilterStatus, filter_status};
use podgate_datapath::lock::Lock;
use podgate_datapath::tables::TableSet;
use podgate_tests::node::{
    Api, Enforcer, Lease, Node, Pod, Traffic, arrives, in_force, is_lost, lets_in, namespace, pod,
    policy, wait_until,
};
use serde_json::json;

/// A node with a web server that friends reach and strangers do not.
fn scene() -> Node {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "friend", "stranger"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply("policy", &policy("p", "app: web", &lets_in("app: friend")));
    node
}

fn start(node: &Node, name: &str) -> Pod {
    Pod::start(node, &node.ptp(in_force(json!({}))), name)
}

/// Traffic that every state of these tests allows, and traffic that every state denies.
struct Watch {
    allowed: Vec<Traffic>,
    denied: Vec<Traffic>,
}

impl Watch {
    fn new(web: &Pod, friend: &Pod, stranger: &Pod) -> Self {
        Self {
            allowed: vec![
                Traffic::udp_echoes(friend, web, web.addresses[0]),
                Traffic::tcp_echoes(friend, web, web.addresses[1]),
            ],
            denied: vec![
                Traffic::denied(stranger, web, web.addresses[0]),
                Traffic::denied(stranger, web, web.addresses[1]),
            ],
        }
    }

    fn sent(&self) -> Vec<u64> {
        let all = self.allowed.iter().chain(&self.denied);
        all.map(Traffic::sent).collect()
    }

    /// Waits until every kind has gone on.
    fn goes_on(&self, by: u64) {
        let before = self.sent();
        wait_until("traffic goes on", || {
            let now = self.sent();
            now.iter()
                .zip(&before)
                .all(|(now, before)| now > &(before + by))
        });
    }

    fn is_right(&self) {
        let wrong = |traffic: &[Traffic]| traffic.iter().map(Traffic::wrong).collect::<Vec<_>>();
        assert_eq!(wrong(&self.allowed), [0, 0], "of {:?}", self.sent());
        assert_eq!(wrong(&self.denied), [0, 0], "of {:?}", self.sent());
    }
}

/// One table set is pinned, and nothing else is there that the attachments do not need.
fn nothing_is_orphaned(node: &Node, attachments: usize) {
    let paths = node.paths();
    wait_until("one table set is left", || {
        TableSet::list_sets(&paths).unwrap().len() == 1
    });
    assert_eq!(node.records().len(), attachments);
    assert_eq!(node.tables().born().unwrap().len(), attachments);
    let names: Vec<_> = std::fs::read_dir(&paths.bpffs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for record in node.records() {
        assert_eq!(
            node.run(|| filter_status(&record)).unwrap(),
            FilterStatus::InForce
        );
    }
}

/// No verdict is wrong while enforcers crash and start with other policies.
#[test]
fn attack_12_no_verdict_is_wrong_while_enforcers_crash() {
    let node = scene();
    let mut enforcer = Enforcer::start(&node);
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    let watch = Watch::new(&web, &friend, &stranger);
    watch.goes_on(50);
    for round in 0..6 {
        enforcer.kill();
        // Classes and rulesets get other numbers in the next run.
        for extra in 0..=round {
            let spec = lets_in(&format!("extra: x{extra}"));
            node.apply(
                &format!("a{extra}"),
                &policy(&format!("a{extra}"), "app: friend, never: x", &spec),
            );
        }
        node.apply(
            "friend",
            &pod("friend", &format!("app: friend, extra: x{round}")),
        );
        node.apply(
            "stranger",
            &pod("stranger", &format!("app: stranger, extra: y{round}")),
        );
        watch.goes_on(20);
        enforcer = Enforcer::start(&node);
        watch.goes_on(50);
        nothing_is_orphaned(&node, 3);
    }
    watch.is_right();
}

/// A start has all flows judged again before its source answers, and those that are allowed go on. A killed enforcer
/// may have left flows that no policy allows any more, and the next one may wait long for its source.
#[test]
fn a_start_has_all_flows_judged_again_before_its_source() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    let watch = Watch::new(&web, &friend, &stranger);
    watch.goes_on(50);
    let slot = web.record(&node).slot;
    let words = || Direction::BOTH.map(|side| node.tables().read_word(slot, side).unwrap());
    enforcer.kill();
    let (set, before) = (node.tables().name(), words());
    let _starting = Enforcer::begin_without_api_server(&node);
    wait_until("both generations are new", || {
        let same =
            |(now, before): (PolicyWord, PolicyWord)| now.generation() == before.generation();
        !words().into_iter().zip(before).any(same)
    });
    watch.goes_on(50);
    watch.is_right();
    assert_eq!(
        words().map(PolicyWord::ruleset),
        before.map(PolicyWord::ruleset)
    );
    assert_eq!(node.tables().name(), set);
}

/// What changed while no enforcer ran is in force after the next start.
#[test]
fn changes_made_without_an_enforcer_are_in_force_after_a_start() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    enforcer.kill();
    assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
    assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
    node.apply("friend", &pod("friend", "app: other"));
    node.apply("stranger", &pod("stranger", "app: friend"));
    let _enforcer = Enforcer::start(&node);
    assert!(is_lost(&friend.netns, &web.netns, web.addresses[0]));
    assert!(arrives(&stranger.netns, &web.netns, web.addresses[0]));
    nothing_is_orphaned(&node, 3);
}

/// Pods that came and went while no enforcer ran are policed and swept.
#[test]
fn pods_changed_without_an_enforcer_are_policed_and_swept() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let conflist = node.ptp(json!({}));
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    enforcer.kill();
    // One goes by DEL, and one without.
    friend.del(&node, &conflist).unwrap();
    node.sh(&format!("ip link del {}", stranger.host_end(&node)));
    let guest = Pod::start(&node, &conflist, "friend");
    let _enforcer = Enforcer::start(&node);
    nothing_is_orphaned(&node, 2);
    assert!(arrives(&guest.netns, &web.netns, web.addresses[0]));
}

#[test]
fn attachments_whose_pod_has_died_are_swept_without_a_del() {
    let node = scene();
    let _enforcer = Enforcer::start(&node);
    let web = start(&node, "web");
    let friend = start(&node, "friend");
    node.sh(&format!("ip link del {}", web.host_end(&node)));
    wait_until("the record goes", || node.records().len() == 1);
    assert_eq!(node.records()[0].identity, friend.identity());
}

#[test]
fn a_second_enforcer_waits_for_the_first_one_to_end() {
    let node = scene();
    let first = Enforcer::start(&node);
    let web = start(&node, "web");
    let elsewhere = ["--metrics-bind-addr", "0", "--health-probe-bind-addr", "0"];
    let mut second = Enforcer::begin(&node, &elsewhere);
    let set = node.tables().name();
    wait_until("the second says that it waits", || {
        second.log().contains("another enforcer")
    });
    assert!(second.is_running());
    assert_eq!(node.tables().name(), set);
    first.kill();
    wait_until("the second takes over", || node.tables().name() != set);
    wait_until("the second answers", || {
        let stranger = start(&node, "stranger");
        is_lost(&stranger.netns, &web.netns, web.addresses[0])
    });
}

/// A second enforcer at the addresses of the first one says first that another enforcer is running, and only then that
/// an address is taken.
#[test]
fn a_second_enforcer_says_first_that_another_one_is_running() {
    let node = scene();
    let _first = Enforcer::start(&node);
    let mut second = Enforcer::begin(&node, &[]);
    wait_until("the second has ended", || !second.is_running());
    let log = second.log();
    let place = |what: &str| log.find(what).unwrap_or_else(|| panic!("{what}: {log}"));
    let (warned, ended) = (place("another enforcer is running; "), place("Error: "));
    let explained = place("another enforcer is running, as the lock");
    let address = place("127.0.0.1:8163");
    assert!(
        warned < ended && ended < explained && explained < address,
        "{log}"
    );
}

/// A name that no Node of the API server has is reported until one has it.
#[test]
fn a_name_of_no_node_is_reported_until_a_node_has_it() {
    let node = Node::new();
    let api = Api::start(&node);
    let nameless = json!({});
    api.create("nodes", "", "other", nameless.clone(), json!({}));
    let enforcer = Enforcer::begin_with_api_server(&node, &api.url());
    let says = "the API server has no Node \"node\"";
    wait_until("the name is told", || {
        let (status, said) = enforcer.readiness(&node);
        status == 200 && said.contains(&format!("warning: {says}"))
    });
    assert_eq!(enforcer.log().matches(says).count(), 1);
    api.create("nodes", "", "node", nameless, json!({}));
    wait_until("nothing is told of it", || {
        let (status, said) = enforcer.readiness(&node);
        status == 200 && !said.contains(says)
    });
}

#[test]
fn a_stop_while_the_manifests_are_first_read_is_obeyed_at_once() {
    let node = scene();
    let lease = Lease::on(&node.manifests().join("policy.yaml"));
    let mut enforcer = Enforcer::begin(&node, &[]);
    wait_until("the file is being read", || lease.is_waited_for());
    enforcer.signal(Signal::SIGTERM);
    let asked = Instant::now();
    wait_until("it has ended", || !enforcer.is_running());
    // The kernel ends the lease, and so the reading, after 45 s.
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(!enforcer.log().contains("Error"), "{}", enforcer.log());
}

#[test]
fn adds_that_meet_a_table_set_being_swapped_in_are_right() {
    let node = scene();
    let [web, friend, stranger] = {
        let _enforcer = Enforcer::start(&node);
        ["web", "friend", "stranger"].map(|name| start(&node, name))
    };
    let watch = Watch::new(&web, &friend, &stranger);
    let conflist = node.ptp(in_force(json!({"enforcingMode": "strict"})));
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| {
            for _ in 0..25 {
                // The same pod again: its policy shuts everybody but friends out, its baseline all.
                let again = Pod::start(&node, &conflist, "web");
                assert!(arrives(&friend.netns, &again.netns, again.addresses[0]));
                assert!(is_lost(&stranger.netns, &again.netns, again.addresses[0]));
                again.del(&node, &conflist).unwrap();
            }
        });
        let mut round = 0;
        while !adding.is_finished() {
            let enforcer = Enforcer::begin(&node, &[]);
            // Long enough to come to different points of a start; an ADD that waits finds one that is ready.
            let patience = Duration::from_millis(40 * (round % 8));
            if round % 4 == 3 {
                drop(enforcer);
                let ready = Enforcer::start(&node);
                std::thread::sleep(patience);
                ready.kill();
            } else {
                std::thread::sleep(patience);
                enforcer.kill();
            }
            round += 1;
        }
        adding.join().unwrap();
    });
    let _enforcer = Enforcer::start(&node);
    watch.goes_on(20);
    watch.is_right();
    nothing_is_orphaned(&node, 3);
}

/// Wherever a start is killed, no verdict is wrong, and the next start works.
#[test]
fn a_start_killed_anywhere_gives_no_wrong_verdict() {
    let node = scene();
    let mut enforcer = Enforcer::start(&node);
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    let watch = Watch::new(&web, &friend, &stranger);
    for round in 0..25 {
        enforcer.kill();
        enforcer = Enforcer::begin(&node, &[]);
        std::thread::sleep(Duration::from_millis(8 * round));
    }
    enforcer.kill();
    let _enforcer = Enforcer::start(&node);
    watch.goes_on(20);
    watch.is_right();
    nothing_is_orphaned(&node, 3);
}

#[test]
fn a_filter_or_a_qdisc_that_somebody_removed_is_put_back() {
    let node = scene();
    let _enforcer = Enforcer::start(&node);
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    let host_end = web.host_end(&node);
    let record = web.record(&node);
    for removal in [
        "tc filter del dev DEV egress pref 2",
        "tc filter del dev DEV ingress pref 2",
        "tc qdisc del dev DEV clsact",
    ] {
        node.sh(&removal.replace("DEV", &host_end));
        wait_until("it is back", || {
            node.run(|| filter_status(&record)).unwrap() == FilterStatus::InForce
        });
        assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
        assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
    }
}

#[test]
fn attack_09_a_later_qdisc_in_the_place_of_ours_is_reported() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let web = start(&node, "web");
    let host_end = web.host_end(&node);
    // The enforcer puts clsact back as soon as it has the lock, and there is room for one of the two only.
    let lock = Lock::take(&node.paths()).unwrap();
    node.sh(&format!(
        "tc qdisc del dev {host_end} clsact && tc qdisc add dev {host_end} ingress"
    ));
    drop(lock);
    wait_until("the qdisc is told of", || {
        enforcer.is_not_ready(&node, "qdisc ingress")
    });
    node.sh(&format!("tc qdisc del dev {host_end} ingress"));
    let record = web.record(&node);
    wait_until("it is policed again", || {
        node.run(|| filter_status(&record)).unwrap() == FilterStatus::InForce
    });
    wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
}

/// A policed pod that the source forgets while no enforcer runs is not opened by the next one.
#[test]
fn a_pod_forgotten_between_enforcers_is_not_opened() {
    let node = scene();
    let mut enforcer = Enforcer::start(&node);
    let (web, friend, stranger) = (
        start(&node, "web"),
        start(&node, "friend"),
        start(&node, "stranger"),
    );
    assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
    assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
    enforcer.kill();
    node.withdraw("web");
    enforcer = Enforcer::start(&node);
    for _ in 0..2 {
        enforcer.kill();
        enforcer = Enforcer::start(&node);
        assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
        assert!(arrives(&web.netns, &stranger.netns, stranger.addresses[0]));
    }
    node.apply("web", &pod("web", "app: web"));
    wait_until("it is known again", || {
        arrives(&friend.netns, &web.netns, web.addresses[0])
    });
    assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
}

/// A run directory that was removed is made again, with all that the next start needs.
#[test]
fn a_removed_run_directory_is_made_again() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    let records = node.records();
    // In one step, or what is made again meanwhile would be in the way.
    let removed = node.dir().join("removed");
    std::fs::rename(node.paths().run, &removed).unwrap();
    std::fs::remove_dir_all(removed).unwrap();
    wait_until("the attachments have their files again", || {
        node.records() == records
    });
    // A pod that comes is policed from its first packet, by this enforcer and by none beside it.
    let late = start(&node, "unknown");
    assert!(is_lost(&late.netns, &web.netns, web.addresses[0]));
    wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
    let other = Enforcer::begin(
        &node,
        &["--metrics-bind-addr=0", "--health-probe-bind-addr=0"],
    );
    wait_until("another one waits", || {
        other.log().contains("another enforcer is running")
    });
    drop(other);
    enforcer.kill();
    let _enforcer = Enforcer::start(&node);
    assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
    assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
    nothing_is_orphaned(&node, 4);
}

/// What an interrupted removal of the pins leaves: no enforcer could start beside it, and no ADD succeed.
#[test]
fn table_sets_that_lack_pins_keep_no_enforcer_from_its_start() {
    let node = scene();
    let first = Enforcer::start(&node);
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| start(&node, name));
    first.kill();
    let pins = node.paths().bpffs;
    let torn: [(&str, &dyn Fn()); 4] = [
        ("a program of the current set", &|| {
            std::fs::remove_file(node.paths().current().join("to_pod")).unwrap();
        }),
        ("all of the current set", &|| {
            let set = std::fs::canonicalize(node.paths().current()).unwrap();
            std::fs::remove_dir_all(&set).unwrap();
            std::fs::create_dir(&set).unwrap();
        }),
        ("a set beside it, with the last number", &|| {
            std::fs::create_dir(pins.join(format!("{}-{}", podgate_abi::ABI, u32::MAX))).unwrap();
        }),
        ("the name of the current set", &|| {
            std::fs::remove_file(node.paths().current()).unwrap();
            std::os::unix::fs::symlink("none", node.paths().current()).unwrap();
        }),
    ];
    for (what, tear) in torn {
        Enforcer::start(&node).kill();
        tear();
        println!("without {what}");
        let enforcer = Enforcer::start(&node);
        wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
        assert!(arrives(&friend.netns, &web.netns, web.addresses[0]));
        assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
        let late = start(&node, "unknown");
        assert!(is_lost(&late.netns, &web.netns, web.addresses[0]));
        let sets = TableSet::list_sets(&node.paths()).unwrap();
        assert_eq!(sets.len(), 1, "{sets:?}");
    }
}

#[test]
fn a_filter_attached_before_ours_is_reported_at_once() {
    let node = scene();
    let enforcer = Enforcer::start(&node);
    let web = start(&node, "web");
    let host_end = web.host_end(&node);
    node.sh(&format!(
        "tc filter add dev {host_end} egress pref 1 protocol all u32 match u32 0 0 action mirred egress redirect dev lo"
    ));
    wait_until("the filter is told of", || {
        enforcer.is_not_ready(&node, "pref 1")
    });
    node.sh(&format!("tc filter del dev {host_end} egress pref 1"));
    wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
}
