// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Blocks and addresses that stand for many receivers, or for another one on each link or host (attack 30).

use podgate_policy::connection::Direction::{Egress, Ingress};
use podgate_policy::connection::Verdict;
use podgate_policy::model::World;

use crate::fixture::*;

/// Of each scope an address, and a block inside the scope that holds it.
const SCOPED: [(&str, &str); 10] = [
    ("0.0.0.0", "0.0.0.0/32"),
    ("127.0.0.1", "127.0.0.0/8"),
    ("169.254.169.254", "169.254.169.254/32"),
    ("169.254.0.7", "169.254.0.0/16"),
    ("224.0.0.1", "224.0.0.0/24"),
    ("239.1.2.3", "224.0.0.0/4"),
    ("255.255.255.255", "255.255.255.255/32"),
    ("::1", "::1/128"),
    ("fe80::7", "fe80::/64"),
    ("ff02::1", "ff00::/8"),
];

/// Wide blocks that hold it, each of which leaves somebody out.
const WIDE: [(&str, &[&str]); 9] = [
    ("0.0.0.0/0", &["10.0.0.0/8"]),
    ("0.0.0.0/0", &["198.51.100.7/32"]),
    ("0.0.0.0/1", &[]),
    ("128.0.0.0/1", &[]),
    ("224.0.0.0/3", &[]),
    ("::/0", &["fd00::/8"]),
    ("::/1", &[]),
    ("8000::/1", &[]),
    ("fe00::/7", &[]),
];

/// Whether a policy with this block alone lets a connection with the address be opened; the same in both directions.
fn allows(base: &World, cidr: &str, except: &[&str], address: &str) -> bool {
    let mut world = base.clone();
    for policy in [
        ingress([with_peers([block(cidr, except)])]),
        egress([with_peers([block(cidr, except)])]),
    ] {
        let name = format!("p{}", world.policies.len());
        let name = podgate_policy::model::ObjectName::new("x", name);
        world.policies.insert(name, std::sync::Arc::new(policy));
    }
    let verdicts = [Ingress, Egress].map(|way| judge(&world, way, address, udp(7)));
    assert_eq!(verdicts[0], verdicts[1], "{cidr} {except:?}: {address}");
    verdicts[0] == Verdict::Allow
}

#[test]
fn attack_30_a_block_speaks_of_a_scope_only_from_inside() {
    for (address, inside) in SCOPED {
        for (cidr, except) in WIDE {
            assert!(
                !allows(&world(), cidr, except, address),
                "{cidr} {except:?}: {address}"
            );
        }
        assert!(
            allows(&world(), inside, &[], address),
            "{inside}: {address}"
        );
        // An exception inside the scope is taken out as ever.
        if !inside.ends_with("/32") && !inside.ends_with("/128") {
            let itself = format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
            assert!(
                !allows(&world(), inside, &[&itself], address),
                "{inside}: {address}"
            );
        }
    }
    // What lies beside the scopes is what it was.
    for (address, cidr, except) in [
        (STRANGER, "0.0.0.0/0", &["10.0.0.0/8"][..]),
        ("223.255.255.255", "128.0.0.0/1", &[]),
        ("169.253.255.255", "128.0.0.0/1", &[]),
        ("169.255.0.0", "128.0.0.0/1", &[]),
        ("2001:db8::7", "::/0", &["fd00::/8"]),
        ("::2", "::/1", &[]),
    ] {
        assert!(allows(&world(), cidr, except, address), "{cidr}: {address}");
    }
}

#[test]
fn everything_without_exceptions_is_everything() {
    for (address, _) in SCOPED {
        let (everything, other_family) = if address.contains(':') {
            ("::/0", "10.0.0.0/8")
        } else {
            ("0.0.0.0/0", "fd00::/8")
        };
        assert!(allows(&world(), everything, &[], address), "{address}");
        // The API server admits no exception outside of its block; it takes nothing away.
        assert!(
            allows(&world(), everything, &[other_family], address),
            "{address}"
        );
    }
}

#[test]
fn attack_30_broadcasts_and_local_routes_of_the_node_are_scopes() {
    let node = World {
        node_scopes: ["198.51.100.255/32", "203.0.113.0/24"]
            .map(|text| text.parse().unwrap())
            .into(),
        ..world()
    };
    for (address, alone) in [
        ("198.51.100.255", "198.51.100.255/32"),
        ("203.0.113.9", "203.0.113.9/32"),
        ("203.0.113.9", "203.0.113.0/24"),
    ] {
        for cidr in [
            "0.0.0.0/0",
            "198.51.100.0/24",
            "203.0.112.0/23",
            "192.0.0.0/4",
        ] {
            let except = ["10.0.0.0/8"];
            let except = if cidr == "0.0.0.0/0" {
                &except[..]
            } else {
                &[]
            };
            assert!(!allows(&node, cidr, except, address), "{cidr}: {address}");
        }
        assert!(allows(&node, alone, &[], address), "{alone}: {address}");
    }
    assert!(allows(&node, "198.51.100.0/24", &[], STRANGER));
    // Elsewhere it is an address as any.
    assert!(allows(&world(), "198.51.100.0/24", &[], "198.51.100.255"));
}
