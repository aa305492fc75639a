// SPDX-License-Identifier: Apache-2.0 OR MIT
use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::{Baseline, Generation};
use podgate_policy::model::{Namespace, PodUid};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| ip(text)).collect()
}

fn pod(name: &str, addresses: &[&str]) -> IdentifiedPod {
    IdentifiedPod {
        name: ObjectName::new("ns", name),
        config_hash: None,
        node: None,
        pod: Arc::new(Pod {
            labels: [("app".to_owned(), name.to_owned())].into(),
            addresses: ips(addresses),
            ..Pod::default()
        }),
    }
}

fn with(mut pod: IdentifiedPod, change: impl FnOnce(&mut Pod)) -> IdentifiedPod {
    change(Arc::make_mut(&mut pod.pod));
    pod
}

fn source(pods: impl IntoIterator<Item = IdentifiedPod>) -> Objects {
    Objects {
        namespaces: OrdMap::unit("ns".to_owned(), Namespace::new("ns", BTreeMap::new())),
        pods: pods
            .into_iter()
            .map(|pod| (pod.name.clone(), Arc::new(pod)))
            .collect(),
        ..Objects::default()
    }
}

/// The attachment of pod `name` in slot `slot`, which is its birth too.
fn record(name: &str, slot: u32, addresses: &[&str]) -> Record {
    Record {
        identity: AttachmentId {
            container_id: format!("c{slot}"),
            ifname: "eth0".into(),
        },
        network: "n".into(),
        pod: Some(PodName {
            namespace: "ns".into(),
            name: name.into(),
            uid: Some("u1".into()),
        }),
        netns_inode: 7,
        pod_ifindex: Ifindex(2),
        host_ifindex: Ifindex(9),
        host_mac: None,
        pod_mac: None,
        broadcasts: Vec::new(),
        addresses: ips(addresses),
        baseline: Baseline::Allow,
        slot: Slot(slot),
        birth: Generation(slot),
    }
}

fn view(pods: impl IntoIterator<Item = IdentifiedPod>, records: Vec<Record>) -> View {
    let mut cluster = Cluster::default();
    cluster.set_source(source(pods));
    cluster.set_attachments(records);
    cluster.view()
}

fn addresses(view: &View, name: &str) -> Vec<IpAddr> {
    view.world.pods[&ObjectName::new("ns", name)]
        .addresses
        .clone()
}

/// Addresses come from the attachment on this node, and from the pod's status on other nodes.
#[test]
fn addresses_come_from_attachments_here_and_status_elsewhere() {
    let view = view(
        [
            pod("here", &["10.0.0.9"]),
            pod("there", &["10.0.1.1", "fd01::1"]),
        ],
        vec![record("here", 1, &["10.0.0.1", "fd00::1"])],
    );
    assert_eq!(addresses(&view, "here"), ips(&["10.0.0.1", "fd00::1"]));
    assert_eq!(addresses(&view, "there"), ips(&["10.0.1.1", "fd01::1"]));
    assert_eq!(view.subjects[&Slot(1)].name, ObjectName::new("ns", "here"));
    assert!(view.unknown.is_empty());
}

#[test]
fn an_attached_address_is_nobody_elses_whatever_the_source_says() {
    let both = [pod("here", &[]), pod("liar", &["10.0.0.1", "10.0.0.2"])];
    let known = view(both.clone(), vec![record("here", 1, &["10.0.0.1"])]);
    assert_eq!(addresses(&known, "liar"), ips(&["10.0.0.2"]));
    let unknown = view(both, vec![record("stranger", 1, &["10.0.0.1"])]);
    assert_eq!(addresses(&unknown, "liar"), ips(&["10.0.0.2"]));
}

#[test]
fn of_two_attachments_with_one_address_the_younger_has_it() {
    for records in [[2, 1], [1, 2]].map(|slots| {
        slots.map(|slot| record(if slot == 2 { "new" } else { "old" }, slot, &["10.0.0.1"]))
    }) {
        let view = view([pod("old", &[]), pod("new", &[])], records.to_vec());
        assert_eq!(addresses(&view, "new"), ips(&["10.0.0.1"]));
        assert_eq!(addresses(&view, "old"), ips(&[]));
        assert_eq!(view.subjects.len(), 2);
    }
}

/// Two interfaces of a pod are two attachments with all of the pod's addresses.
#[test]
fn two_interfaces_are_two_attachments_with_all_addresses() {
    let records = vec![
        record("here", 1, &["10.0.0.1"]),
        record("here", 2, &["10.0.0.2"]),
    ];
    let view = view([pod("here", &[])], records);
    assert_eq!(addresses(&view, "here"), ips(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(view.subjects.len(), 2);
}

#[test]
fn a_pod_that_the_source_does_not_know_is_unknown() {
    let mut nameless = record("x", 2, &["10.0.0.2"]);
    nameless.pod = None;
    let view = view([], vec![record("stranger", 1, &["10.0.0.1"]), nameless]);
    assert_eq!(view.unknown, OrdSet::from_iter([Slot(1), Slot(2)]));
    assert!(view.subjects.is_empty());
}

#[test]
fn a_namesake_with_another_uid_is_another_pod() {
    let other = with(pod("here", &["10.0.1.1"]), |pod| {
        pod.uid = Some(PodUid("u2".into()))
    });
    let view = view([other], vec![record("here", 1, &["10.0.0.1"])]);
    assert_eq!(view.unknown, OrdSet::unit(Slot(1)));
    assert_eq!(addresses(&view, "here"), ips(&["10.0.1.1"]));
}

#[test]
fn a_static_pod_is_known_by_the_hash_of_its_file() {
    let mirror = |hash: &str| IdentifiedPod {
        config_hash: Some(hash.into()),
        ..with(pod("a", &["10.0.0.1"]), |pod| {
            pod.uid = Some(PodUid("of the mirror".into()));
        })
    };
    for (hash, known) in [("u1", true), ("u2", false)] {
        let view = view([mirror(hash)], vec![record("a", 1, &["10.0.0.1"])]);
        assert_eq!(view.subjects.contains_key(&Slot(1)), known, "{hash}");
    }
}

/// A pod that left the source is judged as it was, and is no peer.
#[test]
fn a_pod_gone_from_the_source_is_judged_as_before_and_no_peer() {
    let mut cluster = Cluster::default();
    cluster.set_source(source([pod("here", &[])]));
    cluster.set_attachments(vec![record("here", 1, &["10.0.0.1"])]);
    let before = cluster.view();
    cluster.set_source(source([]));
    let after = cluster.view();
    assert_eq!(after.subjects, before.subjects);
    assert!(after.world.pods.is_empty());
    assert!(after.unknown.is_empty());
}

#[test]
fn another_attachment_under_the_same_name_inherits_nothing() {
    let mut cluster = Cluster::default();
    cluster.set_source(source([pod("here", &[])]));
    let first = record("here", 1, &["10.0.0.1"]);
    assert_eq!(
        cluster.set_attachments(vec![first.clone()]),
        [Slot(1)].into()
    );
    cluster.view();
    assert_eq!(cluster.set_attachments(vec![first.clone()]), [].into());
    cluster.set_source(source([]));
    let again = Record {
        birth: Generation(5),
        ..first
    };
    assert_eq!(cluster.set_attachments(vec![again]), [Slot(1)].into());
    assert_eq!(cluster.view().unknown, OrdSet::unit(Slot(1)));
}

#[test]
fn completed_pods_and_host_network_pods_are_no_peers() {
    let finished = with(pod("done", &["10.0.0.1"]), |pod| pod.finished = true);
    let host = with(pod("host", &["192.0.2.1"]), |pod| pod.host_network = true);
    let view = view(
        [finished, host, pod("new", &[])],
        vec![record("new", 1, &["10.0.0.1"])],
    );
    assert_eq!(addresses(&view, "new"), ips(&["10.0.0.1"]));
    assert!(addresses(&view, "done").is_empty());
    let selectable: Vec<_> = view
        .world
        .pods
        .values()
        .filter(|pod| pod.is_selectable())
        .collect();
    assert_eq!(selectable.len(), 1);
}

#[test]
fn a_pod_in_an_unknown_namespace_is_a_subject_of_it() {
    let mut cluster = Cluster::default();
    let mut snapshot = source([pod("here", &[])]);
    snapshot.namespaces.clear();
    cluster.set_source(snapshot);
    cluster.set_attachments(vec![record("here", 1, &["10.0.0.1"])]);
    let view = cluster.view();
    assert!(view.world.namespaces.is_empty());
    assert_eq!(view.subjects[&Slot(1)].name.namespace, "ns");
}

#[test]
fn link_local_addresses_name_nobody() {
    let view = view(
        [pod("here", &[])],
        vec![record("here", 1, &["10.0.0.1", "fe80::1"])],
    );
    assert_eq!(addresses(&view, "here"), ips(&["10.0.0.1"]));
}

#[test]
fn an_address_of_an_attachment_is_none_of_the_nodes() {
    let mut cluster = Cluster::default();
    cluster.set_source(source([pod("here", &[])]));
    cluster.set_node_addresses(Addresses {
        own: BTreeSet::from([ip("10.0.0.1"), ip("192.0.2.1")]),
        ..Addresses::default()
    });
    cluster.set_attachments(vec![record("here", 1, &["10.0.0.1"])]);
    assert_eq!(cluster.view().world.node_addresses, ips(&["192.0.2.1"]));
}

#[test]
fn the_baseline_is_the_attachments_own() {
    let mut strict = record("here", 1, &[]);
    strict.baseline = Baseline::Deny;
    let view = view([pod("here", &[])], vec![strict]);
    assert_eq!(view.subjects[&Slot(1)].baseline, Baseline::Deny);
}

#[test]
fn a_node_is_missing_while_the_source_has_none_of_its_name() {
    let mut cluster = Cluster::default();
    assert_eq!(cluster.missing_node(), None);
    cluster.set_node("here".to_owned(), ServiceOptions::default());
    let node = |name: &str, there: bool| {
        let addresses = Arc::new(BTreeSet::new());
        vec![Change::Node(name.to_owned(), there.then_some(addresses))]
    };
    cluster.apply(node("elsewhere", true));
    assert_eq!(cluster.missing_node(), Some("here"));
    cluster.apply(node("here", true));
    assert_eq!(cluster.missing_node(), None);
    cluster.apply(node("here", false));
    assert_eq!(cluster.missing_node(), Some("here"));
}

#[test]
fn pods_of_this_node_without_an_attachment_are_found() {
    let here = |name: &str, change: fn(&mut IdentifiedPod)| {
        let mut pod = pod(name, &["10.0.0.9"]);
        pod.node = Some("here".into());
        change(&mut pod);
        pod
    };
    let objects = Objects {
        pods: [
            here("open", |_| {}),
            here("attached", |_| {}),
            here("elsewhere", |pod| pod.node = Some("there".into())),
            here("unscheduled", |pod| pod.node = None),
            here("host", |pod| {
                Arc::make_mut(&mut pod.pod).host_network = true
            }),
            here("finished", |pod| {
                Arc::make_mut(&mut pod.pod).finished = true
            }),
            here("pending", |pod| {
                Arc::make_mut(&mut pod.pod).addresses.clear()
            }),
            // Another pod of the name of an attachment's.
            here("namesake", |pod| {
                Arc::make_mut(&mut pod.pod).uid = Some(PodUid("another".into()));
            }),
        ]
        .map(|pod| (pod.name.clone(), Arc::new(pod)))
        .into_iter()
        .collect(),
        ..Objects::default()
    };
    let mut cluster = Cluster::default();
    cluster.set_source(objects);
    let found = |cluster: &Cluster| {
        let names = cluster.without_attachment();
        names.map(|of| of.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(found(&cluster), [""; 0], "the node has no name yet");
    cluster.set_node("here".into(), ServiceOptions::default());
    assert_eq!(found(&cluster), ["attached", "namesake", "open"]);
    let attached = ["attached", "namesake"].into_iter().zip(1..);
    let records = attached.map(|(name, slot)| record(name, slot, &["10.0.0.1"]));
    cluster.set_attachments(records.collect());
    assert_eq!(found(&cluster), ["namesake", "open"]);
}

/// Foreign addresses are what the node says, and what a namespace says where the node obeys it.
#[test]
fn foreign_addresses_follow_the_node_and_its_namespaces() {
    use podgate_abi::Foreign::{Allow, Deny, Unisolated};
    let modes = |says: Option<&str>, node, by_namespace| {
        let mut cluster = Cluster::default();
        cluster.set_foreign(ForeignSetting { node, by_namespace });
        let mut source = source([]);
        let namespace = Namespace {
            foreign_addresses: says.map(str::to_owned),
            ..Namespace::new("ns", BTreeMap::new())
        };
        source.namespaces.insert("ns".to_owned(), namespace);
        cluster.set_source(source);
        let mut elsewhere = record("b", 2, &[]);
        elsewhere.pod.as_mut().unwrap().namespace = "unknown".into();
        let nobodys = Record {
            pod: None,
            ..record("c", 3, &[])
        };
        cluster.set_attachments(vec![record("a", 1, &[]), elsewhere, nobodys]);
        let modes = cluster.foreign_modes();
        (
            modes.into_iter().map(|(_, mode)| mode).collect::<Vec<_>>(),
            cluster.foreign_warnings(),
        )
    };
    let none = Vec::new;
    assert_eq!(modes(Some("allow"), Deny, false), (vec![Deny; 3], none()));
    assert_eq!(
        modes(Some("?"), Unisolated, false),
        (vec![Unisolated; 3], none())
    );
    // A Namespace that is not known yet may say "deny".
    for (says, mode) in [("deny", Deny), ("unisolated", Unisolated), ("allow", Allow)] {
        let expected = (vec![mode, Deny, Unisolated], none());
        assert_eq!(modes(Some(says), Unisolated, true), expected);
    }
    assert_eq!(modes(None, Allow, true), (vec![Allow, Deny, Allow], none()));
    let (found, warnings) = modes(Some("Allow"), Unisolated, true);
    assert_eq!(found, [Unisolated, Deny, Unisolated]);
    assert!(warnings[0].text.contains("\"Allow\""), "{warnings:?}");
}
