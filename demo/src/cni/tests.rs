// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The runner against plugins that are shell scripts: they write down how they were called.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A directory with the plugins `first` and `last`, which log their call to `log` and do as `body` says.
fn plugins(body: &str) -> (tempfile::TempDir, Chain) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for name in ["first", "last"] {
        let script = format!(
            "#!/bin/sh\nme={name}; log={}\nstdin=$(cat)\n\
             echo \"$me $CNI_COMMAND $CNI_IFNAME $CNI_ARGS $stdin\" >> $log\n{body}\n",
            log.display()
        );
        let file = dir.path().join(name);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let conflist = dir.path().join("conflist");
    fs::write(
        &conflist,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"first"},{"type":"last","a":1}]}"#,
    )
    .unwrap();
    let chain = Chain::new(Conflist::read(conflist).unwrap(), [dir.path()]);
    (dir, chain)
}

fn calls(dir: &tempfile::TempDir) -> Vec<String> {
    fs::read_to_string(dir.path().join("log"))
        .unwrap()
        .lines()
        .map(Into::into)
        .collect()
}

fn sandbox() -> Sandbox {
    Sandbox::new("c1", "/proc/self/ns/net", "eth0").of_pod("stars", "backend")
}

const ARGS: &str =
    "IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_NAME=backend;K8S_POD_NAMESPACE=stars";

#[test]
fn add_hands_each_plugin_the_result_of_the_one_before_untouched() {
    let (dir, chain) = plugins(r#"echo '{"n": 1e2, "ips":[{"address":"10.0.0.2/32"}]}'"#);
    let result = chain.add(&sandbox()).unwrap();
    let raw = r#"{"n": 1e2, "ips":[{"address":"10.0.0.2/32"}]}"#;
    assert_eq!(result.get(), raw);
    assert_eq!(
        addresses(&result).unwrap(),
        ["10.0.0.2".parse::<IpAddr>().unwrap()]
    );
    let head = r#"{"name":"n","cniVersion":"1.0.0""#;
    assert_eq!(
        calls(&dir),
        [
            format!(r#"first ADD eth0 {ARGS} {head},"type":"first"}}"#),
            format!(r#"last ADD eth0 {ARGS} {head},"prevResult":{raw},"a":1,"type":"last"}}"#),
        ]
    );
}

#[test]
fn del_goes_backwards_with_the_result_of_add() {
    let (dir, chain) = plugins("");
    let result = RawValue::from_string("{}".into()).unwrap();
    chain.del(&sandbox(), Some(&result)).unwrap();
    chain.del(&sandbox(), None).unwrap();
    let order: Vec<_> = calls(&dir)
        .iter()
        .map(|c| (c.starts_with("last"), c.contains("prevResult")))
        .collect();
    assert_eq!(
        order,
        [(true, true), (false, true), (true, false), (false, false)]
    );
}

#[test]
fn a_plugin_that_fails_ends_add_with_its_own_words() {
    let (dir, chain) = plugins(r#"echo '{"code":7,"msg":"no","details":"at all"}'; exit 1"#);
    let error = chain.add(&sandbox()).unwrap_err();
    assert_eq!(
        error.to_string().trim_end(),
        r#"CNI plugin "first" failed ADD with code 7: no; at all"#
    );
    assert_eq!(calls(&dir).len(), 1);
}

#[test]
fn a_plugin_that_is_nowhere_is_named_with_the_places_searched() {
    let (dir, mut chain) = plugins("");
    chain.conflist.plugins[0].insert("type".into(), "missing".into());
    let error = chain
        .check(&sandbox(), &RawValue::from_string("{}".into()).unwrap())
        .unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("missing") && said.contains(&dir.path().display().to_string()),
        "{said}"
    );
}

#[test]
fn a_key_is_set_for_one_plugin_only() {
    let (_dir, chain) = plugins("");
    let conflist = chain.conflist.with("last", "runDir", "/run/x");
    assert_eq!(conflist.plugins[0].get("runDir"), None);
    assert_eq!(conflist.plugins[1]["runDir"], "/run/x");
}
