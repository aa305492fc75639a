// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets by chance, judged, and what passed given to receivers that read by themselves: none finds in it anything but
//! what the policy allows.

use std::net::IpAddr;
use std::thread;

use podgate_abi::{
    Bytes, Decision, Direction, Hook, Offload, PortSetId, Reason, RowSets, decide, ethertype,
};
use podgate_tests::hostile::{self, ALLOWED, Chance, Readers};
use podgate_tests::kernel::{Kernel, Origin, PolicyOf, SLOT};

use crate::setting::{FAMILIES, FRIENDS, Family, RULESET, Scene};

/// How many packets each of the four runs (families, directions) sends by itself.
const PACKETS: u64 = 260_000;

/// Of so many, one is judged by the programs in the kernel too.
const IN_KERNEL: u64 = 16;

/// After so many, the kernel's tables are new: one that is full forgets fragments that the host's remember.
const KERNEL_LASTS: u64 = 3000;

/// A frame and what goes with it.
pub(crate) struct Sent<'a>(pub(crate) &'a [u8], pub(crate) Offload);

impl Bytes for Sent<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(offset)
    }

    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.load_words(offset)
    }

    fn offload(&self) -> Offload {
        self.1
    }
}

/// UDP to port 53 with the friend, and nothing else.
fn scene(family: Family) -> Scene {
    let mut scene = Scene::with_kernel(Kernel::default(), family, PolicyOf::both(RULESET));
    let udp = scene.kernel.ports(&[ALLOWED..=ALLOWED]);
    let only = RowSets {
        tcp: PortSetId::NONE,
        udp,
        sctp: PortSetId::NONE,
        rest: PortSetId::NONE,
    };
    scene.kernel.put_row(RULESET, FRIENDS, only);
    scene
}

/// What a reader takes a frame for, if it is another thing than what is allowed.
fn find_fault(readers: &mut Readers, frame: &[u8]) -> Option<String> {
    let mut found = readers.read(frame).into_iter();
    found.find_map(|(place, target, delivered)| {
        (target != (17, ALLOWED)).then(|| format!("{place}: {target:?}, {delivered:02x?}"))
    })
}

/// What a sender might ask to have written, and where.
fn offload(chance: &mut Chance, length: usize) -> Offload {
    if !chance.once_in(4) {
        return Offload::NONE;
    }
    let start = chance.one_of(&[0, 14, 20, 34, 38, 54, 62, 70]);
    let offset = chance.one_of(&[0, 2, 2, 4, 6, 6, 16, 20]);
    if usize::from(start + offset) + 2 > length {
        return Offload::NONE;
    }
    Offload::checksum(start, offset)
}

/// The frame as the kernel leaves it when it has written what it was asked for.
fn finished(mut frame: Vec<u8>, offload: Offload) -> Vec<u8> {
    if offload != Offload::NONE {
        let at = (offload.checksum >> 16) + (offload.checksum & 0xffff);
        frame[at as usize..at as usize + 2].copy_from_slice(&[0, 80]);
    }
    frame
}

fn run(family: Family, direction: Direction) {
    let mut chance = Chance::new(&format!("{family:?}, {direction:?}"));
    let (mut scene, on_host) = (scene(family), self::scene(family));
    let (from, to): (IpAddr, IpAddr) = match direction {
        Direction::Ingress => (scene.friend, scene.pod),
        Direction::Egress => (scene.pod, scene.friend),
    };
    let hook = Hook {
        slot: SLOT,
        direction,
        ethertype: match family {
            Family::V4 => ethertype::IPV4,
            Family::V6 => ethertype::IPV6,
        },
        received_from: 7,
        interface: 1,
    };
    let mut readers = Readers::default();
    let (mut sent, mut passed, mut last) = (0, 0, Vec::new());
    while sent < hostile::packets(PACKETS) {
        for frame in hostile::frames(&mut chance, from, to) {
            sent += 1;
            if sent % IN_KERNEL == 0 {
                if sent % (IN_KERNEL * KERNEL_LASTS) == 0 {
                    scene = self::scene(family);
                }
                scene.kernel.run(direction, Origin::Elsewhere, &frame);
            }
            let offload = offload(&mut chance, frame.len());
            let tables = &on_host.kernel.host;
            let verdict = decide(&tables, &Sent(&frame, offload), &hook);
            let Decision::Pass(reason) = verdict else {
                continue;
            };
            assert_ne!(reason, Reason::Unpoliced, "{frame:02x?}");
            passed += 1;
            let frame = finished(frame, offload);
            if let Some(fault) = find_fault(&mut readers, &frame) {
                panic!("{reason:?}: {fault}; {frame:02x?} with {offload:x?}, after {last:02x?}");
            }
            last = frame;
        }
        on_host.kernel.host.events.borrow_mut().clear();
        scene.kernel.host.events.borrow_mut().clear();
    }
    assert!(passed > sent / 50, "only {passed} of {sent} passed");
}

#[test]
fn attack_22_no_reader_finds_what_is_denied_in_what_passed() {
    thread::scope(|scope| {
        for family in FAMILIES {
            scope.spawn(move || {
                for direction in Direction::BOTH {
                    run(family, direction);
                }
            });
        }
    });
}
