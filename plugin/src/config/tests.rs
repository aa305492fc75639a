// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Configurations as runtimes write them, and as people mistype them.

use super::*;

fn refused(stdin: &str) -> (u32, String) {
    let error = Config::read(stdin.as_bytes()).unwrap_err().error;
    (error.code as u32, error.message)
}

#[test]
fn a_configuration_without_our_keys_has_the_defaults() {
    let config = Config::read(br#"{"cniVersion":"0.3.1","name":"n","type":"podgate"}"#).unwrap();
    assert_eq!(
        (config.version, config.network.as_str()),
        (CniVersion::V0_3_1, "n")
    );
    assert!(config.prev_result.is_none() && config.valid_attachments.is_none());
    let expected = Settings {
        enforcing_mode: EnforcingMode::Standard,
        wait: Duration::from_secs(2),
        on_timeout: OnTimeout::Baseline,
        socket: "/run/podgate/cni.sock".into(),
        exempt_namespaces: vec!["kube-system".into()],
        paths: Paths::default(),
    };
    assert_eq!(config.settings, expected);
}

#[test]
fn every_key_of_ours_is_read() {
    let config = Config::read(
        br#"{"cniVersion":"1.1.0","name":"n","enforcingMode":"strict","waitMs":5,"onTimeout":"fail",
             "socket":"/s","exemptNamespaces":[],"runDir":"/r","bpffsDir":"/b"}"#,
    );
    let expected = Settings {
        enforcing_mode: EnforcingMode::Strict,
        wait: Duration::from_millis(5),
        on_timeout: OnTimeout::Fail,
        socket: "/s".into(),
        exempt_namespaces: vec![],
        paths: Paths {
            run: "/r".into(),
            bpffs: "/b".into(),
        },
    };
    assert_eq!(config.unwrap().settings, expected);
}

#[test]
fn the_socket_is_in_the_run_directory() {
    let config = Config::read(br#"{"cniVersion":"1.1.0","name":"n","runDir":"/r"}"#).unwrap();
    assert_eq!(config.settings.socket, PathBuf::from("/r/cni.sock"));
}

#[test]
fn a_key_of_cni_or_of_another_domain_passes() {
    let stdin = br#"{"cniVersion":"1.1.0","cniVersions":[],"name":"n","type":"podgate","disableCheck":true,"disableGC":true,
        "loadOnlyInlinedPlugins":true,"capabilities":{"io.kubernetes.cri.pod-annotations":true},"args":{"cni":{}},
        "runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b"}},"ipMasq":true,"ipam":{"type":"x"},"dns":{},
        "prevResult":{"onTimout":1},"cni.dev/x":1,"io.kubernetes.cri.pod-annotations":{},"example.com/note":"ours"}"#;
    Config::read(stdin).unwrap();
}

#[test]
fn an_unknown_key_is_code_2_with_its_value_and_a_suggestion() {
    let read = |keys: &str| refused(&format!(r#"{{"cniVersion":"1.1.0","name":"n",{keys}}}"#));
    let (code, message) = read(r#""onTimout": "fail""#);
    assert_eq!(code, 2);
    assert_eq!(
        message,
        r#""onTimout": "fail": podgate has no such key; did you mean "onTimeout"?"#
    );
    // All of them, beside what else is wrong, which may be why.
    let (code, message) = read(r#""enforcingmode": "strict", "WaitMs": 5, "socket": 7"#);
    assert_eq!(code, 7);
    for says in ["socket: ", r#"mean "waitMs"?"#, r#"mean "enforcingMode"?"#] {
        assert!(message.contains(says), "{message}");
    }
    let (_, message) = read(&format!(r#""note": "{}""#, "x".repeat(5000)));
    assert!(
        message.len() < 300 && message.contains("exemptNamespaces"),
        "{message}"
    );
}

#[test]
fn del_goes_on_with_a_key_that_nobody_knows() {
    let mut problems = Vec::new();
    let settings = settings_for_del(br#"{"runDir":"/r","onTimout":"fail"}"#, &mut problems);
    assert_eq!(settings.paths.run, PathBuf::from("/r"));
    assert!(problems[0].contains("onTimout"), "{problems:?}");
}

#[test]
fn each_wrong_key_is_named() {
    for (key, value) in [
        ("enforcingMode", "\"Strict\""),
        ("enforcingMode", "1"),
        ("waitMs", "\"2000\""),
        ("waitMs", "-1"),
        ("waitMs", "1.5"),
        ("waitMs", "99999999999"),
        ("onTimeout", "\"deny\""),
        ("socket", "[]"),
        ("socket", "\"cni.sock\""),
        ("exemptNamespaces", "\"kube-system\""),
        ("exemptNamespaces", "[1]"),
        ("runDir", "\"run\""),
        ("bpffsDir", "{}"),
        ("cni.dev/valid-attachments", "{}"),
        ("cni.dev/valid-attachments", "[{\"containerID\":\"x\"}]"),
        ("name", "1"),
    ] {
        let stdin = match key {
            "name" => format!(r#"{{"cniVersion":"1.1.0","{key}":{value}}}"#),
            _ => format!(r#"{{"cniVersion":"1.1.0","name":"n","{key}":{value}}}"#),
        };
        let (code, message) = refused(&stdin);
        assert_eq!(code, 7, "{stdin}");
        assert!(
            message.starts_with(&format!("{key}: ")),
            "{stdin}: {message}"
        );
    }
}

#[test]
fn all_wrong_keys_are_named_at_once() {
    let (code, message) = refused(r#"{"cniVersion":"1.1.0","waitMs":"x","onTimeout":"deny"}"#);
    assert_eq!(code, 7);
    assert_eq!(
        message,
        "name: is missing; waitMs: invalid type: string \"x\", expected u32; \
         onTimeout: unknown variant `deny`, expected `baseline` or `fail`"
    );
}

#[test]
fn a_version_that_is_not_spoken_is_code_1() {
    for stdin in [
        r#"{"name":"n"}"#,
        r#"{"cniVersion":"0.2.0"}"#,
        r#"{"cniVersion":"1.2.0"}"#,
        r#"{"cniVersion":""}"#,
    ] {
        assert_eq!(refused(stdin).0, 1, "{stdin}");
    }
    assert_eq!(refused(r#"{"cniVersion":1}"#).0, 7);
}

#[test]
fn what_is_no_object_is_code_6() {
    for stdin in [
        "",
        " ",
        "[]x",
        "{",
        "\"x\"",
        "{\"cniVersion\":\"1.0.0\",\"cniVersion\":\"1.0.0\"}",
        "\u{feff}{}",
    ] {
        assert_eq!(refused(stdin).0, 6, "{stdin:?}");
    }
    assert_eq!(
        Config::read(b"{\"name\":\"\xff\"}").unwrap_err().error.code,
        Code::Decode
    );
}

#[test]
fn del_reads_what_it_can() {
    let mut problems = Vec::new();
    let stdin = br#"{"cniVersion":"9","waitMs":"x","runDir":"/r","bpffsDir":"relative"}"#;
    let settings = settings_for_del(stdin, &mut problems);
    assert_eq!(
        settings.paths,
        Paths {
            run: "/r".into(),
            ..Paths::default()
        }
    );
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(
        settings_for_del(b"garbage", &mut problems).paths,
        Paths::default()
    );
}

#[test]
fn valid_attachments_have_a_right_and_a_wrong_name() {
    let read = |keys: &str| {
        let stdin = format!(r#"{{"cniVersion":"1.1.0","name":"n"{keys}}}"#);
        let listed = Config::read(stdin.as_bytes()).unwrap().valid_attachments;
        listed.map(|listed| {
            listed
                .into_iter()
                .map(|identity| identity.container_id)
                .collect::<Vec<_>>()
        })
    };
    let right = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
    let wrong = r#","cni.dev/attachments":[{"containerID":"b","ifname":"eth0"}]"#;
    assert_eq!(read(""), None);
    assert_eq!(read(right), Some(vec!["a".into()]));
    assert_eq!(read(wrong), Some(vec!["b".into()]));
    assert_eq!(read(&format!("{wrong}{right}")), Some(vec!["a".into()]));
    assert_eq!(read(r#","cni.dev/valid-attachments":[]"#), Some(vec![]));
    assert_eq!(read(r#","cni.dev/valid-attachments":null"#), None);
}

#[test]
fn the_baseline_follows_mode_and_namespace() {
    let pod = |namespace: &str| PodName {
        namespace: namespace.into(),
        name: "p".into(),
        uid: None,
    };
    let settings = |mode: &str| {
        let stdin = format!(r#"{{"enforcingMode":"{mode}","exemptNamespaces":["open"]}}"#);
        settings_for_del(stdin.as_bytes(), &mut Vec::new())
    };
    let (standard, strict) = (settings("standard"), settings("strict"));
    assert_eq!(standard.baseline(Some(&pod("stars"))), Baseline::Allow);
    assert_eq!(standard.baseline(None), Baseline::Allow);
    assert_eq!(strict.baseline(Some(&pod("stars"))), Baseline::Deny);
    assert_eq!(strict.baseline(Some(&pod("open"))), Baseline::Allow);
    assert_eq!(strict.baseline(None), Baseline::Deny);
}
