// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cluster itself, and our plugin in its chain, without an enforcer or with one that reads manifests.

use std::net::IpAddr;
use std::time::Duration;

use podgate_tests::cluster::{Cluster, Enforcer, NODES, PodSpec, wait_for};

/// How long what must come may take on a busy machine.
const FOUND: Duration = Duration::from_secs(10);

#[test]
fn two_nodes_are_ready_and_have_addresses_of_both_families() {
    let cluster = Cluster::alone();
    for node in NODES {
        let object = cluster.get(&["node", node]);
        let of = |kind: &str, entries: &str, value: &str| -> Vec<String> {
            let all = object["status"][entries].as_array().expect("a list");
            let chosen = all.iter().filter(|entry| entry["type"] == kind);
            chosen
                .map(|entry| entry[value].as_str().expect("a text").to_owned())
                .collect()
        };
        assert_eq!(of("Ready", "conditions", "status"), ["True"]);
        let addresses = of("InternalIP", "addresses", "address");
        assert_eq!(families(&addresses), [true, false], "{addresses:?}");
    }
}

#[test]
fn a_pod_gets_addresses_of_both_families_and_our_filters() {
    let cluster = Cluster::alone();
    let namespace = cluster.namespace("chain");
    for pod in namespace.start(NODES.map(|node| PodSpec::new(node).on(node))) {
        let v4: Vec<bool> = pod.addresses.iter().map(IpAddr::is_ipv4).collect();
        assert_eq!(v4, [true, false], "{:?}", pod.addresses);
        let files = cluster.in_node(&pod.node, &["sh", "-c", "cat /run/podgate/attachments/*"]);
        assert!(files.contains(&pod.uid), "{files}");
        let host_end = cluster.in_node(
            &pod.node,
            &["ip", "-o", "route", "get", &pod.addresses[0].to_string()],
        );
        let host_end = host_end.split(' ').skip_while(|word| *word != "dev").nth(1);
        let host_end = host_end.expect("an interface");
        for side in ["ingress", "egress"] {
            let filters =
                cluster.in_node(&pod.node, &["tc", "filter", "show", "dev", host_end, side]);
            assert!(filters.contains("podgate_"), "{filters}");
        }
    }
}

/// Pods of two nodes reach each other and a Service, in both families.
#[test]
fn pods_of_two_nodes_reach_each_other_and_a_service() {
    let cluster = Cluster::alone();
    let namespace = cluster.namespace("reach");
    namespace.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: there}, spec: {ipFamilyPolicy: RequireDualStack, \
         selector: {app: node2}, ports: [{port: 8080, targetPort: 80}]}}",
    );
    let [here, there] = namespace.start(NODES.map(|node| PodSpec::new(node).on(node)));
    for (from, to) in [(&here, &there), (&there, &here)] {
        for address in &to.addresses {
            assert!(from.connects(*address, 80, FOUND), "{address}");
        }
    }
    for address in namespace.service_addresses("there") {
        // The kube-proxies learn of the Service at their own time, and refuse until then.
        wait_for("the Service has an endpoint", FOUND, || {
            here.connect(address, 8080, FOUND).is_ok()
        });
        // A pod that reaches itself through the Service goes by its node.
        assert!(there.connects(address, 8080, FOUND), "{address}");
    }
}

#[test]
fn an_enforcer_in_the_namespaces_of_a_node_takes_its_pods() {
    let cluster = Cluster::alone();
    let namespace = cluster.namespace("manifests");
    let [web, client] =
        namespace.start(["web", "client"].map(|name| PodSpec::new(name).on("node1")));
    cluster.in_node("node1", &["mkdir", "-p", "/run/manifests"]);
    let flags = ["--source", "manifests", "--manifests", "/run/manifests"];
    let enforcer = Enforcer::start(&cluster, "node1", &flags);
    assert!(
        enforcer.metrics().contains("podgate_attachments"),
        "{}",
        enforcer.metrics()
    );
    for address in &web.addresses {
        assert!(client.connects(*address, 80, FOUND), "{address}");
    }
    enforcer.stop();
}

/// Of each address whether it is an IPv4 one.
fn families(addresses: &[String]) -> Vec<bool> {
    let parsed = addresses.iter().map(|address| address.parse::<IpAddr>());
    parsed
        .map(|address| address.expect("an address").is_ipv4())
        .collect()
}
