// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels that are too old, as `setarch --uname-2.6` makes this one say that it is.

use std::process::{Command, Output};

use podgate_tests::node::{Call, Node, Pod, binary, unpoliced};
use serde_json::json;

const REFUSAL: &str = "is not 5.10 or newer, which podgate needs";

/// What the enforcer says and how it ends when `program` starts it with these arguments before its own.
fn enforcer(node: &Node, program: &str, arguments: &[&str]) -> Output {
    let paths = node.paths();
    let run = || {
        Command::new(program)
            .args(arguments)
            .args([
                "--source",
                "manifests",
                "--node-name",
                "node",
                "--manifests",
            ])
            .arg(node.manifests().join("missing"))
            .arg("--run-dir")
            .arg(paths.run)
            .arg("--bpffs-dir")
            .arg(paths.bpffs)
            .output()
    };
    node.run(run).expect("run the enforcer")
}

#[test]
fn plugin_and_enforcer_refuse_a_kernel_older_than_5_10() {
    let node = Node::new();
    let alone = unpoliced(node.ptp(json!({})));
    let pod = Pod::start(&node, &alone, "a");
    let config = |settings| {
        let mut config = node.podgate(settings);
        config["cniVersion"] = "1.1.0".into();
        config["name"] = "net".into();
        config["prevResult"] = json!({"cniVersion": "1.1.0"});
        config.to_string()
    };
    let call = |verb| {
        Call::new(verb)
            .of(&pod.container_id, pod.netns.path())
            .stdin(config(json!({})))
    };
    for verb in ["ADD", "STATUS"] {
        call(verb).on_linux_2_6().make(&node).refused(107, REFUSAL);
    }
    assert!(node.records().is_empty());
    assert!(!node.has_filter(&pod.host_end(&node)));
    // The same calls on the kernel as it is; and what stands can be taken away whatever the kernel says.
    for verb in ["STATUS", "ADD"] {
        call(verb).make(&node).ok();
    }
    assert_eq!(node.records().len(), 1);
    call("DEL").on_linux_2_6().make(&node).ok();
    assert!(node.records().is_empty());

    let ours = binary("podgate-enforcer").display().to_string();
    let refused = enforcer(&node, "setarch", &["--uname-2.6", &ours]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains(REFUSAL),
        "{said}"
    );
    // Otherwise it ends for another reason: its manifests are not there.
    let said = enforcer(&node, &ours, &[]);
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(
        !said.contains(REFUSAL) && said.contains("missing"),
        "{said}"
    );
}
