// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The plugin as a runtime sees it: variables and stdin in, exit status and stdout out.

use std::{collections::HashMap, fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// One call of the plugin.
struct Call {
    environment: HashMap<&'static str, OsString>,
    stdin: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    exit: Exit,
    stdout: String,
    stderr: String,
}

impl Call {
    /// A call in which every variable is good, for a pod whose namespace does not exist.
    fn new(verb: &str, stdin: impl Into<Vec<u8>>) -> Self {
        let environment = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_NETNS", "/nonexistent/netns"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=stars;K8S_POD_NAME=backend"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let environment = environment.map(|(name, value)| (name, OsString::from(value)));
        Self {
            environment: environment.into(),
            stdin: stdin.into(),
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.into());
        self
    }

    fn run(&self) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = run(Io {
            getenv: &|name| self.environment.get(name).cloned(),
            stdin: &mut self.stdin.as_slice(),
            stdout: &mut stdout,
            stderr: &mut stderr,
        });
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Outcome {
            exit,
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }
}

impl Outcome {
    /// The error on stdout: its number, message and protocol version.
    fn error(&self) -> (u64, String, String) {
        assert_eq!(self.exit, Exit::Failure, "{self:?}");
        let reply: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{self:?}"));
        let text = |key: &str| {
            reply[key]
                .as_str()
                .unwrap_or_else(|| panic!("{self:?}"))
                .to_owned()
        };
        (
            reply["code"].as_u64().unwrap(),
            text("msg"),
            text("cniVersion"),
        )
    }
}

/// Directories that are not those of the machine.
fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn config(place: &Path, version: &str) -> Value {
    json!({
        "cniVersion": version,
        "name": "net",
        "type": "podgate",
        "runDir": place.join("run"),
        "bpffsDir": place.join("bpf"),
        "waitMs": 20,
    })
}

fn with(mut config: Value, keys: Value) -> String {
    config
        .as_object_mut()
        .unwrap()
        .extend(keys.as_object().unwrap().clone());
    config.to_string()
}

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn version_is_answered_whatever_is_on_stdin() {
    for stdin in ["", "garbage", r#"{"cniVersion":"0.4.0"}"#] {
        let outcome = Call::new("VERSION", stdin).run();
        assert_eq!(outcome.exit, Exit::Success);
        assert_eq!(
            outcome.stdout,
            r#"{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
        );
    }
}

#[test]
fn version_does_not_read_stdin() {
    struct Unreadable;
    impl Read for Unreadable {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("stdin was read");
        }
    }
    let exit = run(Io {
        getenv: &|name| (name == "CNI_COMMAND").then(|| "VERSION".into()),
        stdin: &mut Unreadable,
        stdout: &mut Vec::new(),
        stderr: &mut Vec::new(),
    });
    assert_eq!(exit, Exit::Success);
}

#[test]
fn a_command_that_is_missing_or_unknown_is_code_4() {
    for command in ["", "add", "UPDATE"] {
        let (code, message, version) = Call::new(command, "{}").run().error();
        assert_eq!((code, version.as_str()), (4, "1.1.0"));
        assert!(message.starts_with("CNI_COMMAND "), "{message}");
    }
}

#[test]
fn a_verb_that_the_version_does_not_have_is_code_1() {
    let place = place();
    for (verb, first) in [("CHECK", 2), ("GC", 4), ("STATUS", 4)] {
        for (index, version) in VERSIONS.iter().enumerate() {
            let outcome = Call::new(verb, config(place.path(), version).to_string()).run();
            let too_old = outcome.exit == Exit::Failure && outcome.error().0 == 1;
            assert_eq!(too_old, index < first, "{verb} {version}: {outcome:?}");
        }
    }
}

#[test]
fn an_unknown_version_is_code_1_for_every_verb_that_may_fail() {
    for verb in ["ADD", "CHECK", "GC", "STATUS"] {
        for stdin in [r#"{"cniVersion":"2.0.0","name":"n"}"#, r#"{"name":"n"}"#] {
            let (code, _, version) = Call::new(verb, stdin).run().error();
            assert_eq!((code, version.as_str()), (1, "1.1.0"), "{verb} {stdin}");
        }
    }
}

#[test]
fn stdin_without_an_object_is_code_6_for_verbs_that_may_fail() {
    for verb in ["ADD", "CHECK", "GC", "STATUS"] {
        for stdin in ["", "garbage", "{", "7", "[]"] {
            assert_eq!(Call::new(verb, stdin).run().error().0, 6, "{verb} {stdin}");
        }
    }
}

#[test]
fn stdin_that_cannot_be_read_is_code_5() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let mut stdout = Vec::new();
    let exit = run(Io {
        getenv: &|name| (name == "CNI_COMMAND").then(|| "ADD".into()),
        stdin: &mut Broken,
        stdout: &mut stdout,
        stderr: &mut Vec::new(),
    });
    assert_eq!(exit, Exit::Failure);
    assert_eq!(serde_json::from_slice::<Value>(&stdout).unwrap()["code"], 5);
}

#[test]
fn a_wrong_key_is_code_7_in_the_callers_version() {
    let place = place();
    for verb in ["ADD", "CHECK", "GC", "STATUS"] {
        let stdin = with(
            config(place.path(), "0.4.0"),
            json!({"enforcingMode": "stricter", "waitMs": true}),
        );
        let (code, message, version) = Call::new(verb, stdin).run().error();
        assert_eq!((code, version.as_str()), (7, "0.4.0"));
        assert!(
            message.contains("enforcingMode: ") && message.contains("waitMs: "),
            "{message}"
        );
    }
}

/// A key that is not known is code 2 for every verb that may fail, and DEL succeeds.
#[test]
fn an_unknown_key_is_code_2_and_del_succeeds() {
    let place = place();
    let stdin = with(
        config(place.path(), "1.1.0"),
        json!({"onTimout": "fail", "prevResult": {}}),
    );
    for verb in ["ADD", "CHECK", "GC", "STATUS"] {
        let (code, message, _) = Call::new(verb, stdin.clone()).run().error();
        assert_eq!(code, 2, "{verb}");
        assert!(message.contains("did you mean \"onTimeout\"?"), "{message}");
    }
    let outcome = Call::new("DEL", stdin).run();
    assert_eq!((outcome.exit, outcome.stdout.as_str()), (Exit::Success, ""));
    assert!(outcome.stderr.contains("onTimout"), "{}", outcome.stderr);
}

#[test]
fn add_and_check_name_every_bad_variable_at_once() {
    let place = place();
    for verb in ["ADD", "CHECK"] {
        let call = Call::new(verb, config(place.path(), "1.0.0").to_string())
            .with("CNI_CONTAINERID", "../x")
            .with("CNI_IFNAME", "")
            .with("CNI_NETNS", "");
        let (code, message, version) = call.run().error();
        assert_eq!((code, version.as_str()), (4, "1.0.0"));
        assert_eq!(
            message,
            "CNI_CONTAINERID \"../x\" does not begin with a letter or digit; CNI_IFNAME is not set; CNI_NETNS is not set"
        );
    }
}

/// ADD without the result of a main plugin is code 7 in every version.
#[test]
fn add_without_a_previous_result_is_code_7_in_every_version() {
    let place = place();
    for version in VERSIONS {
        for stdin in [
            config(place.path(), version).to_string(),
            with(config(place.path(), version), json!({"prevResult": null})),
        ] {
            let outcome = Call::new("ADD", stdin).run();
            let (code, message, said) = outcome.error();
            assert_eq!((code, said.as_str()), (7, version));
            assert!(
                message.starts_with("prevResult: ")
                    && outcome.stdout.contains("behind a main plugin"),
                "{message}"
            );
        }
    }
}

#[test]
fn add_for_a_missing_netns_is_code_4_and_leaves_nothing() {
    let place = place();
    let stdin = with(config(place.path(), "1.0.0"), json!({"prevResult": {}}));
    let (code, message, _) = Call::new("ADD", stdin).run().error();
    assert_eq!(code, 4);
    assert!(message.starts_with("CNI_NETNS: "), "{message}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn add_for_the_nodes_own_namespace_is_code_8_and_leaves_nothing() {
    let place = place();
    let stdin = with(config(place.path(), "1.0.0"), json!({"prevResult": {}}));
    let call = Call::new("ADD", stdin)
        .with("CNI_NETNS", "/proc/self/ns/net")
        .with("CNI_IFNAME", "lo");
    assert_eq!(call.run().error().0, 8);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn del_succeeds_and_prints_nothing_whatever_is_broken() {
    let place = place();
    let good = config(place.path(), "1.0.0").to_string();
    let beside_good_paths = |keys| with(config(place.path(), "1.0.0"), keys);
    let stdins = [
        good.clone(),
        beside_good_paths(json!({"cniVersion": "9.9.9"})),
        beside_good_paths(json!({"cniVersion": null, "name": 5})),
        beside_good_paths(json!({"waitMs": "x", "enforcingMode": [], "socket": "relative"})),
        beside_good_paths(json!({"prevResult": "nonsense"})),
        beside_good_paths(json!({"onTimout": "fail"})),
    ];
    for stdin in stdins {
        for (name, value) in [
            ("CNI_PATH", ""),
            ("CNI_NETNS", ""),
            ("CNI_NETNS", "relative"),
            ("CNI_ARGS", "nonsense"),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../../etc"),
            ("CNI_CONTAINERID", &"x".repeat(5000)),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "a/b"),
        ] {
            let outcome = Call::new("DEL", stdin.clone()).with(name, value).run();
            assert_eq!(
                (outcome.exit, outcome.stdout.as_str()),
                (Exit::Success, ""),
                "{stdin} {name}={value}"
            );
        }
    }
}

#[test]
fn del_succeeds_without_a_configuration_and_without_an_identity() {
    for stdin in [&b""[..], b"garbage", b"{", b"\xff\xfe", b"[]"] {
        let call = Call::new("DEL", stdin).with("CNI_CONTAINERID", "");
        let outcome = call.run();
        assert_eq!((outcome.exit, outcome.stdout.as_str()), (Exit::Success, ""));
        assert!(
            outcome.stderr.contains("CNI_CONTAINERID is not set"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn check_of_an_attachment_that_is_not_there_fails() {
    let place = place();
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let outcome = Call::new("CHECK", config(place.path(), version).to_string()).run();
        assert_eq!(outcome.error().0, 105, "{outcome:?}");
    }
}

/// GC without a list does nothing, and with an empty one finds nothing.
#[test]
fn gc_without_a_list_does_nothing_and_an_empty_one_finds_none() {
    let place = place();
    for keys in [
        json!({}),
        json!({"cni.dev/valid-attachments": []}),
        json!({"cni.dev/attachments": []}),
    ] {
        let outcome = Call::new("GC", with(config(place.path(), "1.1.0"), keys)).run();
        assert_eq!(
            (outcome.exit, outcome.stdout.as_str()),
            (Exit::Success, ""),
            "{outcome:?}"
        );
    }
}

#[test]
fn gc_and_status_need_no_variable_but_the_command() {
    let place = place();
    for verb in ["GC", "STATUS"] {
        let mut call = Call::new(verb, config(place.path(), "1.1.0").to_string());
        call.environment.retain(|name, _| *name == "CNI_COMMAND");
        assert_eq!(call.run().exit, Exit::Success);
    }
}

#[test]
fn status_is_code_50_in_strict_mode_without_an_enforcer() {
    let place = place();
    let strict = with(
        config(place.path(), "1.1.0"),
        json!({"enforcingMode": "strict"}),
    );
    assert_eq!(Call::new("STATUS", strict).run().error().0, 50);
    let standard = config(place.path(), "1.1.0").to_string();
    let outcome = Call::new("STATUS", standard).run();
    assert_eq!((outcome.exit, outcome.stdout.as_str()), (Exit::Success, ""));
}

#[test]
fn a_result_is_kept_as_it_was_written() {
    for result in [
        r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eni1","mac":"254"},{"name":"dummy0","mac":"0","sandbox":"1"}]}"#,
        r#"{ "x" : 1e2 , "x":1E+2,"n":-0.0, "big":123456789012345678901234567890 }"#,
        "{\"b\":1,\"a\":2,\t\"a\":[ ],\r\n\"\\u0061\":\"\\/\"}",
        r#"{"interfaces":[{"name":"cali0"}],"ips":[{"address":"10.0.0.1"}],"ours?":{"deep":[[[[]]]]}}"#,
        "{}",
    ] {
        let stdin = format!(
            r#"{{"cniVersion":"1.0.0","name":"n","prevResult":{result},"type":"podgate"}}"#
        );
        assert_eq!(
            Config::read(stdin.as_bytes())
                .unwrap()
                .prev_result
                .unwrap()
                .get(),
            result
        );
    }
}

#[test]
fn a_configuration_cut_anywhere_is_refused_and_del_succeeds() {
    let place = place();
    let whole = with(
        config(place.path(), "1.1.0"),
        json!({"prevResult": {"ips": [{"address": "10.0.0.1/24"}]}}),
    );
    for length in 0..whole.len() {
        let cut = &whole.as_bytes()[..length];
        assert_eq!(Call::new("ADD", cut).run().error().0, 6, "{length}");
        let outcome = Call::new("DEL", cut).with("CNI_IFNAME", "").run();
        assert_eq!(
            (outcome.exit, outcome.stdout.as_str()),
            (Exit::Success, ""),
            "{length}"
        );
    }
}
