// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attack 11 and the order of writes: policies, labels and addresses change a thousand times under traffic.

use std::net::IpAddr;

use podgate_tests::node::{
    Enforcer, Node, Pod, Traffic, arrives, in_force, is_lost, lets_in, namespace, pod, policy,
    wait_until,
};
use serde_json::json;

/// How many changes are made.
const CHANGES: u32 = 1000;

/// After how many changes all that was changed must have gone through: what is read in between is up to the reader.
const SETTLED: u32 = 25;

/// What lets friends in, by selectors that replace and overlap one another, and never strangers.
fn admission(number: u32) -> String {
    let by = match number % 6 {
        0 => "{podSelector: {matchLabels: {app: friend}}}".to_owned(),
        1 => "{podSelector: {matchExpressions: [{key: app, operator: In, values: [friend, nobody]}]}}".into(),
        2 => "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [stranger, web]}]}}".into(),
        3 => format!("{{podSelector: {{matchLabels: {{app: friend}}}}}}, {{podSelector: {{matchLabels: {{mood: m{}}}}}}}", number % 97),
        4 => "{namespaceSelector: {}, podSelector: {matchExpressions: [{key: friendly, operator: Exists}]}}".into(),
        _ => "{ipBlock: {cidr: 198.51.100.0/24}}, {podSelector: {matchLabels: {friendly: very}}}".into(),
    };
    format!("policyTypes: [Ingress], ingress: [{{from: [{by}]}}]")
}

#[test]
fn attack_11_a_thousand_changes_give_no_wrong_verdict() {
    let node = Node::new();
    node.apply("namespace", &namespace("default"));
    for name in ["web", "friend", "stranger", "other"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply("friend", &pod("friend", "app: friend, friendly: very"));
    node.apply("policy", &policy("p", "app: web", &admission(0)));
    let enforcer = Enforcer::start(&node);
    let conflist = node.ptp(in_force(json!({})));
    let [web, friend, stranger] =
        ["web", "friend", "stranger"].map(|name| Pod::start(&node, &conflist, name));
    let allowed = [
        Traffic::udp_echoes(&friend, &web, web.addresses[0]),
        Traffic::udp_echoes(&friend, &web, web.addresses[1]),
        Traffic::tcp_echoes(&friend, &web, web.addresses[0]),
    ];
    let denied = [
        Traffic::denied(&stranger, &web, web.addresses[0]),
        Traffic::denied(&stranger, &web, web.addresses[1]),
    ];
    let going_on = || allowed.iter().chain(&denied).map(Traffic::sent).min();
    let mut other = None;
    for change in 0..CHANGES {
        match change % 5 {
            // The policy under which all of it stands.
            0 | 1 => node.apply("policy", &policy("p", "app: web", &admission(change))),
            // Others for the same pods and for the same peers.
            2 => {
                let spec = lets_in(&format!("mood: m{}", (change + 1) % 97));
                let who =
                    ["app: web", "app: friend, never: x", "app: stranger"][change as usize % 3];
                node.apply(
                    &format!("p{}", change % 7),
                    &policy(&format!("p{}", change % 7), who, &spec),
                );
            }
            // Labels that some of the selectors ask for, and never those that decide.
            3 => {
                let mood = format!("mood: m{}", change % 89);
                node.apply(
                    "friend",
                    &pod("friend", &format!("app: friend, friendly: very, {mood}")),
                );
                node.apply(
                    "stranger",
                    &pod("stranger", &format!("app: stranger, rank: r{change}")),
                );
            }
            // Addresses come and go; the host-local plugin gives another each time.
            _ => {
                let old: Option<Pod> = other.take();
                if let Some(old) = &old {
                    old.del(&node, &conflist).unwrap();
                }
                if change % 10 == 9 {
                    other = Some(Pod::start(&node, &conflist, "other"));
                }
            }
        }
        if change % SETTLED == 0 {
            let before = going_on();
            wait_until("it is ready", || enforcer.readiness(&node).0 == 200);
            wait_until("traffic goes on", || {
                going_on() > before.map(|sent| sent + 4)
            });
        }
    }
    let wrong = |traffic: &[Traffic]| traffic.iter().map(Traffic::wrong).collect::<Vec<_>>();
    assert_eq!(wrong(&allowed), [0; 3]);
    assert_eq!(wrong(&denied), [0; 2]);
    // The last change is in force: the rules do what they say, in both directions.
    let address: IpAddr = web.addresses[0];
    node.apply(
        "policy",
        &policy("p", "app: web", &lets_in("app: stranger")),
    );
    for number in 0..7 {
        node.withdraw(&format!("p{number}"));
    }
    wait_until("the friend is shut out, and the stranger is let in", || {
        is_lost(&friend.netns, &web.netns, address) && arrives(&stranger.netns, &web.netns, address)
    });
}
