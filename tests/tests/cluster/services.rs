// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services, through kube-proxy's own translation, in both families.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use podgate_tests::cluster::{Cluster, Namespace, Pod, PodSpec, wait_for};

/// How long what must come may take on a busy machine.
const FOUND: Duration = Duration::from_secs(15);

/// How long what must not come is waited for.
const LOST: Duration = Duration::from_millis(400);

/// A policy of one direction, for the pods of this name.
fn policy(of: &str, direction: &str, rules: &str) -> String {
    let field = direction.to_lowercase();
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {of}-{field}}}, spec: {{\
         podSelector: {{matchLabels: {{app: {of}}}}}, policyTypes: [{direction}], {field}: [{rules}]}}}}"
    )
}

/// A rule that lets a client out to the pods with this label.
fn to(label: &str, more: &str) -> String {
    format!("{{to: [{{podSelector: {{matchLabels: {{{label}}}}}}}]{more}}}")
}

/// A Service of both families.
fn service(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
         spec: {{ipFamilyPolicy: RequireDualStack, {spec}}}}}"
    )
}

/// Waits until a pod reaches the Service in both families. Until the kube-proxies know it, it is refused.
fn reached(namespace: &Namespace<'_>, client: &Pod<'_>, service: &str, port: u16) {
    for address in namespace.service_addresses(service) {
        let what = format!("{} reaches {service} at {address}", client.name);
        wait_for(&what, FOUND, || {
            client.connect(address, port, FOUND).is_ok()
        });
    }
}

/// Waits until a pod's packets to the Service are lost in both families, and looks whether they stay so.
fn lost(namespace: &Namespace<'_>, client: &Pod<'_>, service: &str, port: u16) {
    let is_lost = |address: IpAddr| {
        let tried = client.connect(address, port, LOST);
        tried.is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
    };
    for address in namespace.service_addresses(service) {
        let what = format!("{} does not reach {service} at {address}", client.name);
        wait_for(&what, FOUND, || is_lost(address));
        assert!((0..4).all(|_| is_lost(address)), "{what}: sometimes");
    }
}

/// A Service is as open as its target ports are, by number and by name.
#[test]
fn a_service_is_as_open_as_its_target_ports() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("ports");
    for (name, port) in [("number", "80"), ("other", "81"), ("named", "web")] {
        let spec =
            format!("selector: {{app: server}}, ports: [{{port: 8080, targetPort: {port}}}]");
        namespace.apply(&service(name, &spec));
    }
    namespace.apply(&policy(
        "client",
        "Egress",
        &to("app: server", ", ports: [{port: 80}]"),
    ));
    namespace.apply(&policy(
        "namer",
        "Egress",
        &to("app: server", ", ports: [{port: web}]"),
    ));
    let [client, namer, _server] = namespace.start([
        PodSpec::new("client").on("node1"),
        PodSpec::new("namer").on("node2"),
        PodSpec::new("server").on("node2").port_name("web"),
    ]);
    for pod in [&client, &namer] {
        reached(&namespace, pod, "number", 8080);
        reached(&namespace, pod, "named", 8080);
        lost(&namespace, pod, "other", 8080);
    }
}

/// A Service is open when every backend is, and closed when there is none.
#[test]
fn a_service_is_open_when_it_has_backends_and_all_are_open() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("backends");
    for (name, label) in [
        ("one", "app: good"),
        ("both", "tier: back"),
        ("none", "app: nobody"),
    ] {
        let spec = format!("selector: {{{label}}}, ports: [{{port: 8080, targetPort: 80}}]");
        namespace.apply(&service(name, &spec));
    }
    namespace.apply(&policy("client", "Egress", &to("app: good", "")));
    let [client, good, bad] = namespace.start([
        PodSpec::new("client").on("node1"),
        PodSpec::new("good").on("node2").label("tier", "back"),
        PodSpec::new("bad").on("node1").label("tier", "back"),
    ]);
    reached(&namespace, &client, "one", 8080);
    lost(&namespace, &client, "both", 8080);
    lost(&namespace, &client, "none", 8080);
    namespace.kubectl(&["label", "pod", &bad.name, "tier-"]);
    reached(&namespace, &client, "both", 8080);
    namespace.kubectl(&["label", "pod", &good.name, "app=bad", "--overwrite"]);
    lost(&namespace, &client, "both", 8080);
}

#[test]
fn a_terminating_backend_counts_while_there_is_no_other() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("ending");
    let spec = "selector: {tier: back}, ports: [{port: 8080, targetPort: 80}]";
    namespace.apply(&service("back", spec));
    namespace.apply(&policy("client", "Egress", &to("app: back", "")));
    namespace.apply(&policy("enemy", "Egress", &to("app: friend", "")));
    let [client, enemy, back] = namespace.start([
        PodSpec::new("client").on("node1"),
        PodSpec::new("enemy").on("node1"),
        PodSpec::new("back")
            .on("node2")
            .label("tier", "back")
            .lingers(60),
    ]);
    reached(&namespace, &client, "back", 8080);
    namespace.kubectl(&["delete", "pod", &back.name, "--wait=false"]);
    wait_for("the endpoint is ending", FOUND, || {
        let slices = [
            "-n",
            namespace.name(),
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=back",
        ];
        let slices = cluster.get(&slices);
        let mut slices = slices["items"].as_array().into_iter().flatten();
        slices.all(|slice| slice["endpoints"][0]["conditions"]["terminating"] == true)
    });
    reached(&namespace, &client, "back", 8080);
    lost(&namespace, &enemy, "back", 8080);
    namespace.kubectl(&["delete", "pod", &back.name, "--force", "--grace-period=0"]);
}

/// A headless Service and one without a selector are what stands behind them.
#[test]
fn headless_and_selectorless_services_are_their_backends() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("manual");
    namespace.apply(&service(
        "headless",
        "clusterIP: None, selector: {app: server}, ports: [{port: 80}]",
    ));
    namespace.apply(&service(
        "manual",
        "ports: [{name: web, port: 8080, targetPort: 80}]",
    ));
    namespace.apply(&policy("client", "Egress", &to("app: server", "")));
    namespace.apply(&policy("stranger", "Egress", &to("app: nobody", "")));
    let [client, stranger, server] = namespace.start([
        PodSpec::new("client").on("node1"),
        PodSpec::new("stranger").on("node1"),
        PodSpec::new("server").on("node2"),
    ]);
    for address in &server.addresses {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        namespace.apply(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: manual-{}, \
             labels: {{kubernetes.io/service-name: manual}}}}, addressType: {family}, \
             ports: [{{name: web, port: 80, protocol: TCP}}], endpoints: [{{addresses: ['{address}'], \
             conditions: {{ready: true}}}}]}}",
            family.to_lowercase()
        ));
        assert!(
            client.connects(*address, 80, FOUND),
            "headless, at {address}"
        );
        assert!(
            !stranger.connects(*address, 80, LOST),
            "headless, at {address}"
        );
    }
    reached(&namespace, &client, "manual", 8080);
    lost(&namespace, &stranger, "manual", 8080);
}

/// The machine outside of the cluster, at a port where somebody answers: the API server.
const OUTSIDE: [&str; 2] = ["192.168.50.1", "fd00:50::1"];
const OUTSIDE_PORT: u16 = 6443;

/// Addresses that could be a pod's, and are nobody's.
const NOBODY: [&str; 2] = ["10.244.2.254", "fd00:10:244:2::ffff"];

/// The slices of a Service without selector, one a family: backends at these addresses, with `more` about each.
fn slices(service: &str, slice: &str, port: u16, addresses: &[IpAddr], more: &str) -> String {
    let of_family = |family: &str, is_ipv4: bool| {
        let addresses = addresses.iter().filter(|at| at.is_ipv4() == is_ipv4);
        let endpoints: Vec<String> = addresses
            .map(|at| format!("{{addresses: ['{at}'], conditions: {{ready: true}}{more}}}"))
            .collect();
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {service}-{slice}-{}, \
             labels: {{kubernetes.io/service-name: {service}}}}}, addressType: {family}, \
             ports: [{{name: web, port: {port}, protocol: TCP}}], endpoints: [{}]}}",
            family.to_lowercase(),
            endpoints.join(", ")
        )
    };
    format!(
        "{}\n---\n{}",
        of_family("IPv4", true),
        of_family("IPv6", false)
    )
}

/// A backend that is no known pod is an address, also beside one that is known.
#[test]
fn a_backend_that_is_no_known_pod_is_an_address() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("unknown");
    let blocks = format!(
        "{{to: [{{ipBlock: {{cidr: {}/32}}}}, {{ipBlock: {{cidr: '{}/128'}}}}]}}",
        OUTSIDE[0], OUTSIDE[1]
    );
    namespace.apply(&policy("client", "Egress", &to("app: server", "")));
    namespace.apply(&policy("traveler", "Egress", &blocks));
    let [client, traveler, server] = namespace.start([
        PodSpec::new("client").on("node1"),
        PodSpec::new("traveler").on("node1"),
        PodSpec::new("server").on("node2"),
    ]);
    let addresses = |texts: [&str; 2]| texts.map(|text| text.parse().expect("an address"));
    let (outside, nobody) = (addresses(OUTSIDE), addresses(NOBODY));
    let never = format!(
        ", targetRef: {{kind: Pod, namespace: {}, name: never, uid: 0a0b0c0d-0000-4000-8000-000000000000}}",
        namespace.name()
    );
    let add = |service_name: &str, slices: &[String]| {
        let service = service(service_name, "ports: [{name: web, port: 8080}]");
        namespace.apply(&[&[service], slices].concat().join("\n---\n"));
    };

    // Without a word about pods it is an address.
    let name = "address";
    add(name, &[slices(name, "a", OUTSIDE_PORT, &outside, "")]);
    reached(&namespace, &traveler, name, 8080);
    lost(&namespace, &client, name, 8080);
    // So it is when it says that it is a pod, which nobody knows.
    let name = "claim";
    add(name, &[slices(name, "a", OUTSIDE_PORT, &outside, &never)]);
    reached(&namespace, &traveler, name, 8080);
    lost(&namespace, &client, name, 8080);
    // An address that is nobody's must be allowed, beside a known pod too, and whatever pod it says it is.
    let name = "nobody";
    let known = slices(name, "a", 80, &server.addresses, "");
    add(name, &[known, slices(name, "b", 80, &nobody, "")]);
    lost(&namespace, &client, name, 8080);
    let name = "promise";
    let known = slices(name, "a", 80, &server.addresses, "");
    add(name, &[known, slices(name, "b", 80, &nobody, &never)]);
    lost(&namespace, &client, name, 8080);
    // A pod that nobody knows, at the address of another one, is in doubt.
    let name = "doubt";
    add(name, &[slices(name, "a", 80, &server.addresses, &never)]);
    lost(&namespace, &client, name, 8080);
}

/// A pod reaches itself through a Service, and its own node, but no NodePort of others.
#[test]
fn a_pod_reaches_itself_and_its_node_but_no_others_node_port() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("self");
    let ports = "ports: [{port: 8080, targetPort: 80}]";
    namespace.apply(&service(
        "own",
        &format!("selector: {{app: alone}}, {ports}"),
    ));
    namespace.apply(&service(
        "other",
        &format!("type: NodePort, selector: {{app: other}}, {ports}"),
    ));
    namespace.apply(&policy("alone", "Ingress", ""));
    namespace.apply(&policy("alone", "Egress", &to("app: alone", "")));
    namespace.apply(&policy("client", "Egress", &to("app: other", "")));
    // It becomes ready by the probes of its node, which is what a denial of all others must let pass.
    let [alone, client, _other] = namespace.start([
        PodSpec::new("alone").on("node1").probed(),
        PodSpec::new("client").on("node1"),
        PodSpec::new("other").on("node2").probed(),
    ]);
    reached(&namespace, &alone, "own", 8080);
    lost(&namespace, &alone, "other", 8080);

    let object = cluster.get(&["-n", namespace.name(), "service", "other"]);
    let node_port = &object["spec"]["ports"][0]["nodePort"];
    let node_port = node_port.as_u64().and_then(|port| u16::try_from(port).ok());
    let node_port = node_port.expect("a port of the nodes");
    for address in node_addresses(&cluster, "node1") {
        assert!(
            alone.connects(address, 10250, FOUND),
            "the kubelet at {address}"
        );
        assert!(!alone.connects(address, node_port, LOST), "at {address}");
        // kube-proxy has node ports at the first address of each family only; this is one of them.
        let what = format!("an allowed backend at {address} {node_port}");
        wait_for(&what, FOUND, || {
            client.connect(address, node_port, FOUND).is_ok()
        });
    }
}

#[test]
fn a_node_port_that_keeps_the_source_is_judged_by_it() {
    let cluster = Cluster::enforced();
    let namespace = cluster.namespace("outside");
    namespace.apply(&service(
        "door",
        "type: NodePort, externalTrafficPolicy: Local, selector: {app: server}, \
         ports: [{port: 8080, targetPort: 80}]",
    ));
    let [server] = namespace.start([PodSpec::new("server").on("node2")]);
    let object = cluster.get(&["-n", namespace.name(), "service", "door"]);
    let port = object["spec"]["ports"][0]["nodePort"].to_string();
    let comes_in = |address: &IpAddr, milliseconds: u32| {
        let place = format!("{}:{port}", bracketed(*address));
        let timeout = format!("--timeout={milliseconds}ms");
        let connect = ["agnhost", "connect", &timeout, &place];
        cluster.try_in_node("control-plane", &connect).is_ok()
    };
    let doors = node_addresses(&cluster, &server.node);
    for address in &doors {
        wait_for("the node port is open", FOUND, || comes_in(address, 5000));
    }
    namespace.apply(&policy(
        "server",
        "Ingress",
        "{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}",
    ));
    for address in &doors {
        wait_for("the outside is denied", FOUND, || !comes_in(address, 400));
    }
    let outside =
        "{from: [{ipBlock: {cidr: 192.168.50.1/32}}, {ipBlock: {cidr: 'fd00:50::1/128'}}]}";
    namespace.apply(&policy("server", "Ingress", outside));
    for address in &doors {
        wait_for("the outside is let in", FOUND, || comes_in(address, 5000));
    }
}

fn node_addresses(cluster: &Cluster, node: &str) -> Vec<IpAddr> {
    let node = cluster.get(&["node", node]);
    let addresses = node["status"]["addresses"]
        .as_array()
        .expect("a list")
        .iter();
    let internal = addresses.filter(|address| address["type"] == "InternalIP");
    internal
        .filter_map(|address| address["address"].as_str())
        .map(|address| address.parse().expect("an address"))
        .collect()
}

fn bracketed(address: IpAddr) -> String {
    let with_port = SocketAddr::new(address, 0).to_string();
    with_port.trim_end_matches(":0").to_owned()
}
