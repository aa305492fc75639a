// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The chart, on nodes on which podgate has never been: in, healed, upgraded, uninstalled and taken away.
//!
//! `PODGATE_IMAGE` names the archive of the image, as `tests/run cluster` makes it; with `PODGATE_BLESS=1` the manifests in
//! `install` are written anew from the chart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use podgate_tests::cluster::{Cluster, NODES, Namespace, Pod, PodSpec, wait_for};

/// How long what must come may take on a busy machine.
const FOUND: Duration = Duration::from_secs(30);

/// How long what must not come is waited for.
const LOST: Duration = Duration::from_millis(400);

/// What the Amazon VPC CNI's users give its chart.
const AWS_VALUES: &str = r#"{"enableNetworkPolicy":"true","nodeAgent":{"enablePolicyEventLogs":"true",
    "enableCloudWatchLogs":"true","healthProbeBindAddr":"8163","metricsBindAddr":"8162"}}"#;

const CONFLIST: &str = "/etc/cni/net.d/05-podgate.conflist";

fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn chart() -> String {
    let path = checkout("install/chart");
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// What the chart gives with these options.
fn render(cluster: &Cluster, options: &[&str], values: &str) -> Result<String, String> {
    let chart = chart();
    let template = ["template", "podgate", &chart, "--namespace", "kube-system"];
    let version = ["--kube-version", "1.36.3"];
    cluster.helm(&[&template, &version[..], options].concat(), values)
}

#[test]
fn the_chart_gives_the_plain_manifests_and_refuses_a_typo() {
    let cluster = Cluster::enforced();
    cluster
        .helm(&["lint", "--strict", &chart()], "")
        .expect("helm lint");
    let license = "# SPDX-License-Identifier: Apache-2.0 OR MIT\n";
    let golden = [
        ("install/podgate.yaml", &[][..]),
        ("install/remove.yaml", &["--set", "remove=true"]),
        ("install/rbac.yaml", &["--show-only", "templates/rbac.yaml"]),
    ];
    for (file, options) in golden {
        let rendered = render(&cluster, options, "").expect("helm template");
        let rendered = format!("{license}# From install/chart, by helm template.\n{rendered}");
        let path = checkout(file);
        if std::env::var_os("PODGATE_BLESS").is_some() {
            fs::write(&path, &rendered).expect("write a manifest");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            written, rendered,
            "{file} is not what the chart gives: PODGATE_BLESS=1"
        );
    }

    let aws = render(&cluster, &["--values", "-"], AWS_VALUES).expect("AWS's values");
    for flag in [
        "--metrics-bind-addr=127.0.0.1:8162",
        "--health-probe-bind-addr=127.0.0.1:8163",
    ] {
        assert!(aws.contains(flag), "{aws}");
    }
    let other = ["--set", "nodeAgent.healthProbeBindAddr=[fd00::5]:9000"];
    let other = render(&cluster, &other, "").expect("helm template");
    assert!(other.contains(r#"host: "fd00::5", port: 9000"#), "{other}");
    let off = render(&cluster, &["--set-string", "enableNetworkPolicy=false"], "");
    assert!(!off.expect("helm template").contains("DaemonSet"));
    let open =
        render(&cluster, &["--set", "serviceMonitor.enabled=true"], "").expect("helm template");
    assert!(open.contains("--metrics-bind-addr=:8162") && open.contains("kind: ServiceMonitor"));
    for typo in [
        "enableNetworkPolicies=true",
        "nodeAgent.metricBindAddr=1",
        "remove=yes",
        "cni.mode=copy",
    ] {
        let refused = render(&cluster, &["--set", typo], "").expect_err(typo);
        assert!(refused.contains("schema"), "{typo}: {refused}");
    }
}

struct Installed<'a> {
    cluster: &'a Cluster,
}

impl Installed<'_> {
    /// Runs helm for the release, and waits until the DaemonSet is rolled out. What it prints.
    fn helm(&self, action: &str, options: &[&str], values: &str) -> String {
        let chart = chart();
        let release = [action, "podgate", &chart, "--namespace", "kube-system"];
        let said = self
            .cluster
            .helm(&[&release[..], options].concat(), values)
            .unwrap_or_else(|said| panic!("helm {action}: {said}"));
        let began = Instant::now();
        let status = [
            "-n",
            "kube-system",
            "rollout",
            "status",
            "daemonset/podgate",
            "--timeout=120s",
        ];
        if let Err(rolled) = self.cluster.try_kubectl(&status) {
            let pods = self
                .cluster
                .try_kubectl(&["-n", "kube-system", "describe", "pods"]);
            panic!("{rolled}: {}", pods.unwrap_or_else(|said| said));
        }
        println!("helm {action}: rolled out after {:?}", began.elapsed());
        said
    }

    fn uninstall(&self) {
        let uninstall = [
            "uninstall",
            "podgate",
            "--namespace",
            "kube-system",
            "--wait",
        ];
        self.cluster.helm(&uninstall, "").expect("helm uninstall");
        wait_for("its pods are gone", FOUND, || {
            let pods = ["-n", "kube-system", "get", "pods", "-o", "name"];
            self.cluster.kubectl(&pods).is_empty()
        });
    }
}

fn reaches(from: &Pod<'_>, to: &Pod<'_>) -> bool {
    to.addresses.iter().all(|at| from.connects(*at, 80, LOST))
}

fn misses(from: &Pod<'_>, to: &Pod<'_>) -> bool {
    to.addresses.iter().all(|at| !from.connects(*at, 80, LOST))
}

/// Another version, pod by pod, while others look and a pod starts.
fn rolls_out(installed: &Installed<'_>, namespace: &Namespace<'_>, pods: [&Pod<'_>; 3]) {
    let [web, friend, stranger] = pods;
    let rolled_out = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !rolled_out.load(Ordering::Relaxed) || looks == 0 {
                assert!(reaches(friend, web), "look {looks}");
                assert!(misses(stranger, web), "look {looks}");
                looks += 1;
            }
            looks
        });
        let starting = scope.spawn(|| {
            let between = PodSpec::new("between").on("node1").label("role", "web");
            let [between] = namespace.start([between]);
            assert!(misses(stranger, &between));
            between
        });
        let version = ["--set-string", "podAnnotations.version=2"];
        let wait = ["--set", "plugin.waitMs=10000"];
        installed.helm(
            "upgrade",
            &[&["--reuse-values"], &version[..], &wait].concat(),
            "",
        );
        rolled_out.store(true, Ordering::Relaxed);
        let looks = looking.join().expect("no wrong verdict");
        println!("{looks} looks during the rolling update");
        let between = starting.join().expect("no wrong verdict");
        wait_for("who came meanwhile is policed", FOUND, || {
            reaches(friend, &between) && misses(stranger, &between)
        });
    });
}

#[test]
fn podgate_comes_by_helm_stays_in_force_and_leaves_no_trace() {
    let image = std::env::var("PODGATE_IMAGE").expect(
        "PODGATE_IMAGE names the archive of the image, as tests/run makes it: install/image/build --programs target/debug DIR",
    );
    let cluster = Cluster::without_podgate();
    for node in NODES {
        cluster.in_node(
            node,
            &["ctr", "-n", "k8s.io", "image", "import", "--local", &image],
        );
    }
    let installed = Installed { cluster: &cluster };
    let values = ["--values", "-", "--set", "plugin.waitMs=1000"];
    let said = installed.helm("install", &values, AWS_VALUES);
    assert!(
        said.contains("nodeAgent.enablePolicyEventLogs, nodeAgent.enableCloudWatchLogs"),
        "{said}"
    );

    let namespace = cluster.namespace("installed");
    namespace.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {\
         podSelector: {matchLabels: {role: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]}}",
    );
    let [web, friend, stranger] = namespace.start([
        PodSpec::new("web").on("node1").label("role", "web"),
        PodSpec::new("friend").on("node2"),
        PodSpec::new("stranger").on("node2"),
    ]);
    let is_policed = |pod: &Pod<'_>| reaches(&friend, pod) && misses(&stranger, pod);
    wait_for("the policy is in force", FOUND, || is_policed(&web));

    // Whoever takes it out of the chain.
    cluster.in_node("node1", &["rm", CONFLIST, "/opt/cni/bin/podgate"]);
    wait_for("it is back in the chain", FOUND, || {
        let there = ["test", "-e", CONFLIST, "-a", "-x", "/opt/cni/bin/podgate"];
        cluster.try_in_node("node1", &there).is_ok()
    });

    rolls_out(&installed, &namespace, [&web, &friend, &stranger]);

    // Nothing goes with the DaemonSet, and who comes then is denied as far as is known.
    installed.uninstall();
    assert!(is_policed(&web));
    let [late] = namespace.start([PodSpec::new("late").on("node1").label("role", "web")]);
    assert!(misses(&stranger, &late) && misses(&friend, &late));
    installed.helm("install", &values, AWS_VALUES);
    wait_for("who came meanwhile is policed", FOUND, || is_policed(&late));
    assert!(is_policed(&web));

    installed.helm("upgrade", &["--reuse-values", "--set", "remove=true"], "");
    for pod in [&web, &late] {
        assert!(reaches(&stranger, pod), "pods run on, and are open");
    }
    let left = |node: &str| {
        let look = "ls -d /run/podgate /sys/fs/bpf/podgate /etc/cni/net.d/*podgate* 2>/dev/null; nft list tables | grep podgate";
        let left = cluster.in_node(node, &["sh", "-c", &format!("{look}; true")]);
        (left, cluster.in_node(node, &["ls", "/opt/cni/bin"]))
    };
    for node in NODES {
        let (left, plugins) = left(node);
        assert_eq!(left, "", "on {node}");
        assert!(plugins.contains("podgate"), "a stub on {node}: {plugins}");
    }
    for name in ["web", "between", "late", "friend", "stranger"] {
        namespace.kubectl(&["delete", "pod", name]);
    }
    for node in NODES {
        wait_for("the stub goes with the last sandbox", FOUND, || {
            !left(node).1.contains("podgate")
        });
    }
    installed.uninstall();
}
