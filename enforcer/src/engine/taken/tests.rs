// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::sync::Arc;

use podgate_policy::model::{Endpoint, EndpointState, ListName, ObjectName, Pod, PodReference};

use super::*;

/// A table with room for so many addresses.
struct Table {
    held: BTreeSet<IpNet>,
    room: usize,
}

impl Table {
    fn with_room(room: usize) -> Self {
        Self {
            held: BTreeSet::new(),
            room,
        }
    }

    fn put(&mut self, address: IpNet) -> Result<(), &'static str> {
        if self.held.len() == self.room {
            return Err("no room");
        }
        assert!(self.held.insert(address), "{address} is written once");
        Ok(())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nets(list: &[&str]) -> BTreeSet<IpNet> {
    let net = |text: &&str| text.parse().unwrap_or_else(|_| ip(text).into());
    list.iter().map(net).collect()
}

fn pod(world: &mut World, name: &str, addresses: &[&str]) {
    let pod = Pod {
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        ..Pod::default()
    };
    world
        .pods
        .insert(ObjectName::new("ns", name), Arc::new(pod));
}

/// A world in which each way to have an address is there.
fn world() -> World {
    let service = Service {
        cluster_addresses: vec![ip("10.96.0.1")],
        external_addresses: vec![ip("203.0.113.1")],
        balancer_addresses: vec![ip("203.0.113.2")],
        ..Service::default()
    };
    let lists = [ListName("l".into())].into();
    let mut world = World {
        node_addresses: vec![ip("192.0.2.1")],
        cluster_nodes: [ip("192.0.2.1"), ip("192.0.2.2")].into_iter().collect(),
        node_scopes: ["192.0.2.255/32", "10.9.0.0/16"]
            .map(|net| net.parse().unwrap())
            .into(),
        listed: [(ip("198.51.100.7"), Arc::new(lists))]
            .into_iter()
            .collect(),
        ..World::default()
    };
    let endpoint = |address, pod: Option<&str>| Endpoint {
        address: ip(address),
        state: EndpointState::Ready,
        pod: pod.map(|name| PodReference {
            name: ObjectName::new("ns", name),
            uid: None,
        }),
        node: None,
    };
    let slice = EndpointSlice {
        endpoints: vec![
            endpoint("10.0.9.9", Some("far")),
            endpoint("172.30.0.7", None),
        ],
        ..EndpointSlice::default()
    };
    world
        .endpoint_slices
        .insert(ObjectName::new("ns", "s"), Arc::new(slice));
    world
        .services
        .insert(ObjectName::new("ns", "s"), Arc::new(service));
    pod(&mut world, "a", &["10.0.0.1", "fd00::1"]);
    pod(&mut world, "b", &["10.0.0.2"]);
    world
}

const ALL: [&str; 12] = [
    "10.0.9.9",
    "10.0.0.1",
    "fd00::1",
    "10.0.0.2",
    "10.96.0.1",
    "203.0.113.1",
    "203.0.113.2",
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.255",
    "10.9.0.0/16",
    "198.51.100.7",
];

fn brought_up(taken: &mut Taken, table: &mut Table, world: &World) {
    taken.follow(world, [].into_iter());
    taken.write(|address| table.put(address));
}

#[test]
fn every_address_of_a_pod_a_node_and_a_service_is_taken() {
    let mut taken = Taken::of(&world(), &[]);
    let mut table = Table::with_room(99);
    taken.write(|address| table.put(address));
    assert_eq!(table.held, nets(&ALL));
    assert_eq!(taken.number(), ALL.len());
    assert_eq!(taken.warning(), None);
}

/// What changes is written and nothing else, and what is gone stays until it may go.
#[test]
fn only_changes_are_written_and_what_is_gone_stays_for_a_while() {
    let (mut taken, mut table) = (Taken::default(), Table::with_room(99));
    let mut now = world();
    brought_up(&mut taken, &mut table, &now);
    // Two have it; one goes, and then the other.
    pod(&mut now, "c", &["10.0.0.2", "10.0.0.3"]);
    brought_up(&mut taken, &mut table, &now);
    assert!(table.held.contains(&ip("10.0.0.3").into()));
    pod(&mut now, "b", &[]);
    brought_up(&mut taken, &mut table, &now);
    assert!(taken.left.is_empty());
    now.pods.remove(&ObjectName::new("ns", "c"));
    now.services.clear();
    now.endpoint_slices.clear();
    now.listed.clear();
    now.cluster_nodes.clear();
    brought_up(&mut taken, &mut table, &now);
    assert!(table.held.is_superset(&nets(&ALL)));
    // One comes back meanwhile: it is not written, as it is there.
    pod(&mut now, "d", &["10.0.0.2"]);
    brought_up(&mut taken, &mut table, &now);
    taken.tidy(|address| Ok::<_, ()>(table.held.remove(&address)));
    assert_eq!(
        table.held,
        nets(&[
            "10.0.0.1",
            "fd00::1",
            "10.0.0.2",
            "192.0.2.1",
            "192.0.2.255",
            "10.9.0.0/16"
        ])
    );
    assert_eq!(taken.number(), 6);
}

#[test]
fn what_cannot_be_deleted_is_tried_again() {
    let (mut taken, mut table) = (Taken::default(), Table::with_room(99));
    brought_up(&mut taken, &mut table, &world());
    brought_up(&mut taken, &mut table, &World::default());
    taken.tidy(|_| Err(()));
    assert_eq!(taken.left, nets(&ALL));
    taken.tidy(|_| Ok::<_, ()>(true));
    assert_eq!(taken.number(), 0);
}

#[test]
fn a_table_that_lacks_an_address_is_told_of_until_it_has_all() {
    let (mut taken, mut table) = (Taken::default(), Table::with_room(3));
    brought_up(&mut taken, &mut table, &world());
    assert_eq!(taken.missing.len(), ALL.len() - 3);
    assert!(taken.warning().unwrap().contains("no room"));
    table.room = 32;
    taken.write(|address| table.put(address));
    assert_eq!(table.held, nets(&ALL));
    assert!(taken.missing.is_empty());
    assert_eq!(taken.warning(), None);
}
