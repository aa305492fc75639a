// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::BTreeSet;

use super::*;

fn config(flags: &[&str]) -> Result<Config> {
    let all = ["podgate-enforcer"].iter().chain(flags);
    Config::try_from(Args::try_parse_from(all)?)
}

const LEAST: [&str; 4] = ["--source", "manifests", "--manifests", "/policies"];

fn with(flags: &[&str]) -> Result<Config> {
    config(&[&LEAST, flags].concat())
}

#[test]
fn what_is_not_said_has_the_documented_default() {
    let config = with(&["--node-name", "here"]).unwrap();
    assert_eq!(
        config,
        Config {
            source: Source::Manifests("/policies".into()),
            run_dir: "/run/podgate".into(),
            bpffs_dir: "/sys/fs/bpf/podgate".into(),
            node_name: "here".into(),
            services: ServiceOptions::default(),
            foreign: ForeignSetting {
                node: Foreign::Unisolated,
                by_namespace: false,
            },
            metrics: BindAddress::At("127.0.0.1:8162".parse().unwrap()),
            health: BindAddress::At("127.0.0.1:8163".parse().unwrap()),
            flow_table_size: None,
            max_flows_per_pod: None,
            rooms: Rooms::of_mib(64),
            log_level: LevelFilter::INFO,
        }
    );
}

#[test]
fn what_contradicts_itself_or_is_not_known_is_an_error() {
    let wrong: &[(&[&str], &str)] = &[
        (&["--source", "manifests"], "add --manifests DIR"),
        (&["--manifests", "/policies"], "--source"),
        (&["--source", "files", "--manifests", "/x"], "files"),
        (
            &["--source", "networkpolicies", "--manifests", "/x"],
            "leave out --manifests",
        ),
        (
            &["--source", "policyendpoints", "--manifests", "/x"],
            "leave out --manifests",
        ),
        (
            &[
                "--source",
                "policyendpoints",
                "--foreign-addresses-by-namespace",
            ],
            "leave out --foreign-addresses-by-namespace",
        ),
    ];
    let wrong_beside_the_rest: &[(&[&str], &str)] = &[
        (&["--polcies", "x"], "--polcies"),
        (&["--kubeconfig", "/x"], "leave out --kubeconfig"),
        (&["x"], "unexpected argument"),
        (&["--foreign-addresses", "some"], "some"),
        (&["--run-dir", "run"], "absolute"),
        (&["--run-dir", "/x", "--bpffs-dir", "/x"], "same directory"),
        (
            &[
                "--metrics-bind-addr",
                ":1",
                "--health-probe-bind-addr",
                ":1",
            ],
            "same address",
        ),
        (&["--metrics-bind-addr", "8162"], "HOST:PORT"),
        (
            &["--conntrack-cache-table-size", "0"],
            "--conntrack-cache-table-size",
        ),
        (&["--log-level", "loud"], "loud"),
    ];
    let all = wrong.iter().map(|(flags, says)| (config(flags), says));
    let all = all.chain(
        wrong_beside_the_rest
            .iter()
            .map(|(flags, says)| (with(flags), says)),
    );
    for (result, says) in all {
        let error = format!("{:#}", result.expect_err(says));
        assert!(error.contains(*says), "{error:?} does not say {says:?}");
    }
}

#[test]
fn the_api_server_is_found_by_a_kubeconfig_or_without_one() {
    for (flags, kubeconfig) in [
        (&[][..], None),
        (&["--kubeconfig", "/k"], Some(PathBuf::from("/k"))),
    ] {
        let server = ApiServer { kubeconfig };
        for (name, expected) in [
            ("networkpolicies", Source::NetworkPolicies(server.clone())),
            ("policyendpoints", Source::PolicyEndpoints(server)),
        ] {
            let config = config(&[&["--source", name], flags].concat()).unwrap();
            assert_eq!(config.source, expected);
        }
    }
}

#[test]
fn an_address_to_listen_on_is_one_all_or_none() {
    for (text, expected) in [
        (":80", BindAddress::At("[::]:80".parse().unwrap())),
        (
            "127.0.0.1:80",
            BindAddress::At("127.0.0.1:80".parse().unwrap()),
        ),
        ("[::1]:80", BindAddress::At("[::1]:80".parse().unwrap())),
        ("0", BindAddress::Off),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
}

#[test]
fn two_servers_that_are_off_are_not_at_the_same_address() {
    let config = with(&["--metrics-bind-addr", "0", "--health-probe-bind-addr", "0"]).unwrap();
    assert_eq!(
        (config.metrics, config.health),
        (BindAddress::Off, BindAddress::Off)
    );
}

/// The rows of the page that documents flags, without the backticks: flag, variable, default.
fn documented() -> Vec<[String; 3]> {
    let page = include_str!("../../../docs/configuration.md");
    let rows = page.lines().filter(|line| line.starts_with("| `--"));
    rows.map(|row| {
        let cells: Vec<String> = row.split('|').map(|c| c.trim().replace('`', "")).collect();
        let [_, flag, variable, default, ..] = cells.as_slice() else {
            panic!("{row}: is a row of the table of flags")
        };
        [flag.clone(), variable.clone(), default.clone()]
    })
    .collect()
}

/// The page on configuration has every flag with its variable and default, and no other flag.
#[test]
fn the_configuration_page_has_every_flag_and_no_other() {
    let command = <Args as clap::CommandFactory>::command();
    let mut undocumented: BTreeSet<String> = BTreeSet::new();
    let mut rows = documented();
    for argument in command.get_arguments() {
        let flag = format!(
            "--{}",
            argument.get_long().expect("every argument is a flag")
        );
        let Some(at) = rows.iter().position(|[documented, ..]| *documented == flag) else {
            undocumented.insert(flag);
            continue;
        };
        let [_, variable, default] = rows.remove(at);
        let has = argument.get_env().expect("every flag has a variable");
        assert_eq!(has.to_str(), Some(variable.as_str()), "{flag}");
        if let [has] = argument.get_default_values() {
            assert_eq!(has.to_str(), Some(default.as_str()), "{flag}");
        }
        assert!(argument.get_help().is_some(), "{flag} has no help");
    }
    assert_eq!(
        undocumented,
        BTreeSet::new(),
        "not in docs/configuration.md"
    );
    assert_eq!(rows, Vec::<[String; 3]>::new(), "no such flags");
}

#[test]
fn what_services_mean_is_said_by_flags() {
    let config = with(&[
        "--node-name",
        "here",
        "--service-egress",
        "any",
        "--service-cidrs",
        "10.96.0.0/12,fd96::/108",
        "--external-addresses-translated",
    ])
    .unwrap();
    let ranges = ["10.96.0.0/12", "fd96::/108"].map(|range| range.parse().unwrap());
    assert_eq!(
        config.services,
        ServiceOptions {
            egress: ServiceEgress::Any,
            external: ExternalAddresses::Translated,
            ranges: ranges.into(),
        }
    );
    for wrong in ["10.96.0.0", "10.96.0.0/33", "services"] {
        let said = format!("{:#}", with(&["--service-cidrs", wrong]).unwrap_err());
        assert!(said.contains("how many of its bits count"), "{said}");
    }
}
