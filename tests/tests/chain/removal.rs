// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `podgate-install` on a node with running pods: into the chain, and away without a trace.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use podgate_tests::node::{
    Enforcer, Node, Pod, arrives, in_force, is_lost, lets_in, namespace, pod, policy, unpoliced,
};
use serde_json::{Value, json};

/// The directories of a runtime on a node.
struct Runtime<'a> {
    node: &'a Node,
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    cache_dir: PathBuf,
}

impl<'a> Runtime<'a> {
    /// With the conflist of a network, and a plugin of somebody else.
    fn new(node: &'a Node) -> Self {
        let at = |name| node.dir().join(name);
        let runtime = Self {
            node,
            conf_dir: at("net.d"),
            bin_dir: at("bin"),
            cache_dir: at("cni"),
        };
        for dir in [&runtime.conf_dir, &runtime.bin_dir] {
            fs::create_dir(dir).expect("make a directory");
        }
        let ptp = json!({"type": "ptp", "ipam": node.ipam()});
        let network = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [ptp]});
        let file = runtime.conf_dir.join("10-net.conflist");
        fs::write(file, network.to_string()).expect("write a conflist");
        fs::write(runtime.bin_dir.join("other"), "").expect("write a plugin");
        runtime
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(podgate_tests::node::binary("podgate-install"));
        command
            .arg(action)
            .args(["--conf-dir".as_ref(), self.conf_dir.as_os_str()])
            .args(["--bin-dir".as_ref(), self.bin_dir.as_os_str()]);
        command
    }

    fn install(&self, settings: Value) -> Output {
        let entry = self.node.podgate(settings).to_string();
        let mut command = self.command("install");
        command.args(["--entry", &entry]);
        command.output().expect("run podgate-install")
    }

    fn remove(&self) -> Output {
        let paths = self.node.paths();
        let mut command = self.command("remove");
        command
            .args(["--run-dir".as_ref(), paths.run.as_os_str()])
            .args(["--bpffs-dir".as_ref(), paths.bpffs.as_os_str()])
            .args(["--cni-cache-dir".as_ref(), self.cache_dir.as_os_str()]);
        let run = || command.output().expect("run podgate-install");
        self.node.run(run)
    }

    /// The chain as the runtime reads it.
    fn conflist(&self) -> Value {
        let mut files: Vec<_> = list(&self.conf_dir);
        files.sort();
        let text = fs::read_to_string(self.conf_dir.join(&files[0])).expect("a conflist");
        serde_json::from_str(&text).expect("JSON")
    }

    /// What libcni writes of an ADD.
    fn remembers(&self, pod: &Pod) -> PathBuf {
        use base64::Engine;
        let config = base64::engine::general_purpose::STANDARD.encode(self.conflist().to_string());
        let results = self.cache_dir.join("results");
        fs::create_dir_all(&results).expect("make a directory");
        let file = results.join(format!("net-{}-eth0", pod.container_id));
        let cached = json!({
            "kind": "cniCacheV1", "containerId": pod.container_id, "ifName": "eth0",
            "networkName": "net", "config": config, "result": {},
        });
        fs::write(&file, cached.to_string()).expect("write a result");
        file
    }

    /// A call of whatever has the plugin's name.
    fn call(&self, verb: &str, pod: &Pod, config: &Value) -> Command {
        let mut command = Command::new(self.bin_dir.join("podgate"));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &pod.container_id)
            .env("CNI_NETNS", pod.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut input = tempfile::tempfile().expect("a file for stdin");
        input
            .write_all(config.to_string().as_bytes())
            .expect("write stdin");
        use std::io::Seek;
        input.rewind().expect("rewind stdin");
        command.stdin(input);
        command
    }
}

fn list(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .expect("list a directory")
        .map(|it| {
            it.expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Whether anything of ours is left but for what is in the runtime's directories.
#[track_caller]
fn is_without_a_trace(node: &Node, pods: &[Pod]) {
    let paths = node.paths();
    assert!(!paths.run.exists() && !paths.bpffs.exists());
    assert_eq!(node.sh("nft list tables"), "");
    for pod in pods {
        let host_end = pod.host_end(node);
        assert!(!node.has_filter(&host_end));
        let shown = node.sh(&format!("ip -details link show {host_end}"));
        assert!(shown.contains("group default"), "{shown}");
        let qdiscs = node.sh(&format!("tc qdisc show dev {host_end}"));
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    }
}

#[test]
fn podgate_leaves_a_node_without_a_trace() {
    let node = Node::new();
    let runtime = Runtime::new(&node);
    node.apply("namespace", &namespace("default"));
    for name in ["web", "stranger"] {
        node.apply(name, &pod(name, &format!("app: {name}")));
    }
    node.apply("policy", &policy("p", "app: web", &lets_in("app: none")));
    let enforcer = Enforcer::start(&node);
    succeeds(&runtime.install(in_force(json!({}))));
    let conflist = serde_json::from_value(runtime.conflist()).expect("a conflist");
    let pods = ["web", "stranger"].map(|name| Pod::start(&node, &conflist, name));
    let [web, stranger] = &pods;
    assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
    let remembered = runtime.remembers(web);

    // An enforcer would put everything back.
    let refused = runtime.remove();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("an enforcer is running"),
        "{said}"
    );
    assert!(is_lost(&stranger.netns, &web.netns, web.addresses[0]));
    assert_eq!(list(&runtime.conf_dir).len(), 2, "nothing was done");
    enforcer.kill();

    let said = succeeds(&runtime.remove());
    assert!(said.contains("a stub stays"), "{said}");
    is_without_a_trace(&node, &pods);
    for address in &web.addresses {
        assert!(arrives(&stranger.netns, &web.netns, *address));
    }
    assert_eq!(list(&runtime.conf_dir), ["10-net.conflist"]);

    // A runtime that remembers podgate's chain.
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "podgate"});
    let call = |verb| {
        runtime
            .call(verb, web, &config)
            .output()
            .expect("run the stub")
    };
    for verb in ["DEL", "CHECK", "DEL", "GC", "STATUS"] {
        let answer = call(verb);
        assert!(
            answer.status.success() && answer.stdout.is_empty(),
            "{verb}: {answer:?}"
        );
    }
    let answer = call("ADD");
    let said: Value = serde_json::from_slice(&answer.stdout).expect("one JSON value");
    assert!(!answer.status.success() && said["code"] == 11, "{said}");
    is_without_a_trace(&node, &pods);

    fs::remove_file(remembered).expect("the runtime forgets");
    succeeds(&runtime.remove());
    assert_eq!(list(&runtime.bin_dir), ["other"]);
    succeeds(&runtime.remove());
}

/// The runtime has read the chain, and the network's plugin takes its time: what podgate does then is taken away, too.
#[test]
fn a_removal_waits_for_plugins_that_still_run() {
    let node = Node::new();
    let runtime = Runtime::new(&node);
    succeeds(&runtime.install(json!({"waitMs": 2000})));
    let conflist = serde_json::from_value(runtime.conflist()).expect("a conflist");
    let pod = Pod::start(&node, &unpoliced(conflist), "late");
    let mut config = node.podgate(json!({"waitMs": 2000}));
    config["cniVersion"] = "1.0.0".into();
    config["name"] = "net".into();
    config["prevResult"] = json!({"cniVersion": "1.0.0"});
    let mut late = runtime.call("ADD", &pod, &config);
    let mut late = node.run(|| late.spawn().expect("run the plugin"));
    podgate_tests::node::wait_until("the plugin waits", || !node.records().is_empty());
    succeeds(&runtime.remove());
    assert!(late.wait().expect("the plugin's end").success());
    is_without_a_trace(&node, &[pod]);
    assert_eq!(list(&runtime.bin_dir), ["other"]);
}

#[test]
fn a_misspelled_setting_never_reaches_the_chain() {
    let node = Node::new();
    let runtime = Runtime::new(&node);
    let refused = runtime.install(json!({"enforcingmode": "strict"}));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("enforcingmode"),
        "{said}"
    );
    assert_eq!(list(&runtime.conf_dir), ["10-net.conflist"]);
    assert_eq!(list(&runtime.bin_dir), ["other"]);
}
