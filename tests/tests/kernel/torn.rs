// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attack 3 for real: elements are replaced on one CPU while the programs read them on another.
//!
//! The kernel uses a replaced element again at once, for whatever key comes next, while a program may still hold a
//! pointer to it. So the writer here replaces the very entries that are read, always with the same content, and then
//! writes the opposite under other keys.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podgate_abi::{Address, Class, Direction, PeerWord, Reason, RowKey, RowWords, RulesetId};
use podgate_tests::frame::{icmp, packet, udp};
use podgate_tests::kernel::{Peers, PolicyOf, Rows};

use crate::setting::{ALL, FRIENDS, Family, NEIGHBORHOOD, NOTHING, RULESET, Scene};

/// How long the tables are under attack, for each of the two verdicts.
const HOW_LONG: Duration = Duration::from_secs(5);

/// The stranger's class.
const STRANGERS: Class = Class(60);

/// Replaces the entries of both peers, and after each of them one of somebody else with the opposite content. Rows
/// that are read are never replaced (the planner writes no row that something leads to), but rows beside them are.
fn replace_until(
    stop: &AtomicBool,
    (mut peers, mut rows): (Peers, Rows),
    friend: Address,
    stranger: Address,
) {
    let somebody = Address::from(IpAddr::from([10, 77, 0, 1]));
    let of = |address, class, node| PeerWord::new(address, class, NEIGHBORHOOD, node);
    let row = |ruleset, class, sets| {
        let key = RowKey::new(ruleset, class);
        (key, RowWords::new(key, sets))
    };
    while !stop.load(Ordering::Relaxed) {
        for (read, class, opposite) in
            [(stranger, STRANGERS, FRIENDS), (friend, FRIENDS, STRANGERS)]
        {
            for (address, word) in [
                (read, of(read, class, false)),
                (somebody, of(somebody, opposite, true)),
            ] {
                peers
                    .insert(address.octets(), word.0, 0)
                    .expect("a peer is replaced");
            }
        }
        for (class, sets, opposite) in [(STRANGERS, NOTHING, ALL), (FRIENDS, ALL, NOTHING)] {
            for (key, row) in [
                row(RulesetId(3), class, sets),
                row(RulesetId(3), Class(100), opposite),
            ] {
                rows.insert(key.0, row.0, 0).expect("a row is replaced");
            }
        }
    }
}

#[test]
fn attack_03_elements_are_replaced_while_they_are_read() {
    let mut scene = Scene::new(Family::V4, PolicyOf::to_pod(RULESET));
    let (pod, friend, stranger) = (scene.pod, scene.friend, scene.stranger);
    scene.kernel.put_row(RULESET, STRANGERS, NOTHING);
    scene.kernel.put_peer(stranger, STRANGERS, NEIGHBORHOOD);
    // Neither makes a flow, so each is judged every time: one is denied, the other an ICMP message.
    let timestamp = icmp(friend, 13, 0, &[0; 16]);
    let kernel = &scene.kernel;
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers = kernel.writers();
        scope.spawn(|| replace_until(stop, writers, friend.into(), stranger.into()));
        for (frame, expected) in [
            (packet(stranger, pod, udp(999, 53)).frame(), Reason::Policy),
            (packet(friend, pod, timestamp).frame(), Reason::Allowed),
        ] {
            let before = kernel.counts(Direction::Ingress);
            let end = Instant::now() + HOW_LONG;
            let mut runs = 0;
            while Instant::now() < end {
                kernel.repeat_in_kernel(Direction::Ingress, &frame, 20_000);
                runs += 20_000;
            }
            let after = kernel.counts(Direction::Ingress);
            let count = |reason| after[reason as usize] - before[reason as usize];
            // Torn twice running, a packet is dropped: seldom, and never remembered.
            let (right, torn) = (count(expected), count(Reason::Torn));
            println!("{expected:?}: {right} of {runs}, {torn} torn twice");
            if right + torn != runs || torn > runs / 1000 {
                stop.store(true, Ordering::Relaxed);
                panic!(
                    "{expected:?} was expected {runs} times: {right}, {torn} torn twice, {after:?}"
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
