// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line: text to [`Config`], once.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use podgate_abi::Foreign;
use podgate_policy::model::{ExternalAddresses, ServiceEgress, ServiceOptions};
use tracing::level_filters::LevelFilter;

use crate::cluster::ForeignSetting;
use crate::stored::{self, Rooms};

/// Enforces Kubernetes NetworkPolicy at the interfaces of this node's pods.
#[derive(Debug, Clone, Parser)]
#[command(name = "podgate-enforcer", version)]
pub struct Args {
    /// Where policy comes from.
    #[arg(long, env = "PODGATE_SOURCE", value_enum)]
    source: SourceKind,
    /// The directory of manifests; exactly with `--source manifests`.
    #[arg(long, env = "PODGATE_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// How to reach the API server; without it `KUBECONFIG`, `~/.kube/config`, or the pod's ServiceAccount says. Only
    /// with a source that is an API server.
    #[arg(long, env = "PODGATE_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where the socket, the locks and the attachment files are.
    #[arg(
        long,
        env = "PODGATE_RUN_DIR",
        value_name = "DIR",
        default_value = "/run/podgate"
    )]
    run_dir: PathBuf,
    /// Where the kernel tables are pinned: a directory of a mounted bpffs.
    #[arg(
        long,
        env = "PODGATE_BPFFS_DIR",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/podgate"
    )]
    bpffs_dir: PathBuf,
    /// The node's name, as the API server knows it; the host's name without it.
    #[arg(long, env = "MY_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// How many endpoints of a Service an egress policy must allow; nobody can tell which one a connection goes to.
    #[arg(
        long,
        env = "PODGATE_SERVICE_EGRESS",
        value_enum,
        default_value = "all"
    )]
    service_egress: Endpoints,
    /// The ranges of cluster addresses, separated by commas, as the API server has them in
    /// `--service-cluster-ip-range`. An `ipBlock` inside one speaks of Services; any other speaks of a Service only
    /// if it is that address alone.
    #[arg(
        long,
        env = "PODGATE_SERVICE_CIDRS",
        value_name = "CIDR,CIDR",
        value_delimiter = ',',
        value_parser = range_of_addresses
    )]
    service_cidrs: Vec<IpNet>,
    /// Nodes translate whatever is sent to `externalIPs`, so that a policy needs to allow the endpoints only, and not the
    /// address too, as it is for load balancers anyway.
    #[arg(long, env = "PODGATE_EXTERNAL_ADDRESSES_TRANSLATED")]
    external_addresses_translated: bool,
    /// What becomes of addresses that are not a pod's own and that no pod, node or Service is known to have, at that pod:
    /// as source of what it sends, and as destination of what is sent to it.
    #[arg(
        long,
        env = "PODGATE_FOREIGN_ADDRESSES",
        value_enum,
        default_value = "unisolated"
    )]
    foreign_addresses: ForeignAddresses,
    /// A Namespace may say so itself, for its pods: by the annotation `podgate.io/foreign-addresses`.
    #[arg(long, env = "PODGATE_FOREIGN_ADDRESSES_BY_NAMESPACE")]
    foreign_addresses_by_namespace: bool,
    /// Where metrics are served; `:PORT` means every address, `0` disables it.
    #[arg(
        long,
        env = "PODGATE_METRICS_BIND_ADDR",
        value_name = "ADDR",
        default_value = "127.0.0.1:8162"
    )]
    metrics_bind_addr: BindAddress,
    /// Where `/readyz` and `/livez` are served; `:PORT` means every address, `0` disables it.
    #[arg(
        long,
        env = "PODGATE_HEALTH_PROBE_BIND_ADDR",
        value_name = "ADDR",
        default_value = "127.0.0.1:8163"
    )]
    health_probe_bind_addr: BindAddress,
    /// How many flows the node can track; without it as many as the tables have now, at first 65,536.
    #[arg(long, env = "PODGATE_CONNTRACK_CACHE_TABLE_SIZE", value_name = "N")]
    conntrack_cache_table_size: Option<NonZeroU32>,
    /// How many of these flows one pod may have; without it a quarter, at most half: the other half is shared out, so that
    /// each pod is sure of some.
    #[arg(long, env = "PODGATE_MAX_FLOWS_PER_POD", value_name = "N")]
    max_flows_per_pod: Option<NonZeroU32>,
    /// MiB that the content of policies and EndpointSlices may take, half each.
    #[arg(
        long,
        env = "PODGATE_OBJECT_MEMORY",
        value_name = "MIB",
        default_value_t = stored::MIB,
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    object_memory: u32,
    /// How much is logged.
    #[arg(long, env = "PODGATE_LOG_LEVEL", value_enum, default_value = "info")]
    log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SourceKind {
    /// A directory of Kubernetes YAML.
    Manifests,
    /// NetworkPolicies, and what they select, from the API server.
    #[value(name = "networkpolicies")]
    NetworkPolicies,
    /// PolicyEndpoints, which a controller of the cluster makes of NetworkPolicies (EKS), from the API server.
    #[value(name = "policyendpoints")]
    PolicyEndpoints,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Where an HTTP server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindAddress {
    /// Nowhere.
    Off,
    /// At this address; the unspecified IPv6 one takes IPv4 too.
    At(SocketAddr),
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self::Off);
        }
        let address = match text.strip_prefix(':') {
            Some(port) => port
                .parse()
                .ok()
                .map(|port| SocketAddr::new(IpAddr::from(Ipv6Addr::UNSPECIFIED), port)),
            None => text.parse().ok(),
        };
        address.map(Self::At).ok_or_else(|| {
            "write HOST:PORT with an IP address, [IPV6]:PORT, :PORT, or 0 to disable it".into()
        })
    }
}

/// Where policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of Kubernetes YAML.
    Manifests(PathBuf),
    /// NetworkPolicies, and what they select, from the API server.
    NetworkPolicies(ApiServer),
    /// PolicyEndpoints, which a controller makes of NetworkPolicies, from the API server.
    PolicyEndpoints(ApiServer),
}

/// How to reach the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiServer {
    /// The kubeconfig; without one, what kube finds.
    pub kubeconfig: Option<PathBuf>,
}

/// What becomes of foreign addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ForeignAddresses {
    /// They are dropped.
    Deny,
    /// They pass at a pod that no policy isolates, in either direction.
    Unisolated,
    /// They pass, judged by the pod's policies as any other, and the pod may claim them at its link.
    Allow,
}

/// How many endpoints of a Service must be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Endpoints {
    /// Every one that is known.
    All,
    /// One is enough.
    Any,
}

/// All that the command line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where policy comes from.
    pub source: Source,
    /// Where the socket, the locks and the attachment files are.
    pub run_dir: PathBuf,
    /// Where the tables are pinned.
    pub bpffs_dir: PathBuf,
    /// The node's name, as the API server knows it.
    pub node_name: String,
    /// What Services mean.
    pub services: ServiceOptions,
    /// What becomes of foreign addresses.
    pub foreign: ForeignSetting,
    /// Where metrics are served.
    pub metrics: BindAddress,
    /// Where health is served.
    pub health: BindAddress,
    /// Entries of the flow table; `None` leaves it to the datapath.
    pub flow_table_size: Option<NonZeroU32>,
    /// How many of these one pod may have.
    pub max_flows_per_pod: Option<NonZeroU32>,
    /// What objects may take of the enforcer's memory.
    pub rooms: Rooms,
    /// How much is logged.
    pub log_level: LevelFilter,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> Result<Self> {
        let Args {
            source,
            manifests,
            kubeconfig,
            run_dir,
            bpffs_dir,
            node_name,
            service_egress,
            service_cidrs,
            external_addresses_translated,
            foreign_addresses,
            foreign_addresses_by_namespace,
            metrics_bind_addr,
            health_probe_bind_addr,
            conntrack_cache_table_size,
            max_flows_per_pod,
            object_memory,
            log_level,
        } = args;
        let source = source_of(source, manifests, kubeconfig)?;
        if foreign_addresses_by_namespace && matches!(source, Source::PolicyEndpoints(_)) {
            bail!(
                "--source policyendpoints reads no Namespaces: leave out --foreign-addresses-by-namespace (or \
                 PODGATE_FOREIGN_ADDRESSES_BY_NAMESPACE)"
            );
        }
        check_directories(&run_dir, &bpffs_dir)?;
        if metrics_bind_addr == health_probe_bind_addr && metrics_bind_addr != BindAddress::Off {
            bail!(
                "--metrics-bind-addr and --health-probe-bind-addr are the same address: give two ports"
            );
        }
        Ok(Self {
            source,
            run_dir,
            bpffs_dir,
            node_name: match node_name {
                Some(name) => name,
                None => host_name().context("asking for the host's name; or give --node-name")?,
            },
            services: ServiceOptions {
                egress: match service_egress {
                    Endpoints::All => ServiceEgress::All,
                    Endpoints::Any => ServiceEgress::Any,
                },
                external: if external_addresses_translated {
                    ExternalAddresses::Translated
                } else {
                    ExternalAddresses::Literal
                },
                ranges: service_cidrs.iter().map(IpNet::trunc).collect(),
            },
            foreign: ForeignSetting {
                node: match foreign_addresses {
                    ForeignAddresses::Deny => Foreign::Deny,
                    ForeignAddresses::Unisolated => Foreign::Unisolated,
                    ForeignAddresses::Allow => Foreign::Allow,
                },
                by_namespace: foreign_addresses_by_namespace,
            },
            metrics: metrics_bind_addr,
            health: health_probe_bind_addr,
            flow_table_size: conntrack_cache_table_size,
            max_flows_per_pod,
            rooms: Rooms::of_mib(object_memory),
            log_level: match log_level {
                LogLevel::Error => LevelFilter::ERROR,
                LogLevel::Warn => LevelFilter::WARN,
                LogLevel::Info => LevelFilter::INFO,
                LogLevel::Debug => LevelFilter::DEBUG,
                LogLevel::Trace => LevelFilter::TRACE,
            },
        })
    }
}

fn source_of(
    source: SourceKind,
    manifests: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
) -> Result<Source> {
    Ok(match (source, manifests, kubeconfig) {
        (SourceKind::Manifests, Some(directory), None) => Source::Manifests(directory),
        (SourceKind::Manifests, None, _) => {
            bail!("--source manifests needs a directory: add --manifests DIR")
        }
        (SourceKind::Manifests, Some(_), Some(_)) => {
            bail!(
                "--source manifests reads no API server: leave out --kubeconfig (or PODGATE_KUBECONFIG)"
            )
        }
        (SourceKind::NetworkPolicies, None, kubeconfig) => {
            Source::NetworkPolicies(ApiServer { kubeconfig })
        }
        (SourceKind::NetworkPolicies, Some(_), _) => {
            bail!(
                "--source networkpolicies reads no files: leave out --manifests (or PODGATE_MANIFESTS)"
            )
        }
        (SourceKind::PolicyEndpoints, None, kubeconfig) => {
            Source::PolicyEndpoints(ApiServer { kubeconfig })
        }
        (SourceKind::PolicyEndpoints, Some(_), _) => {
            bail!(
                "--source policyendpoints reads no files: leave out --manifests (or PODGATE_MANIFESTS)"
            )
        }
    })
}

fn check_directories(run_dir: &Path, bpffs_dir: &Path) -> Result<()> {
    for (flag, path) in [("--run-dir", run_dir), ("--bpffs-dir", bpffs_dir)] {
        if !path.is_absolute() {
            bail!("{flag} {}: give an absolute path", path.display());
        }
    }
    if run_dir == bpffs_dir {
        bail!(
            "--run-dir and --bpffs-dir are the same directory: one holds files, the other kernel objects"
        );
    }
    Ok(())
}

fn host_name() -> Result<String> {
    let name: OsString = nix::sys::utsname::uname()?.nodename().to_owned();
    Ok(name.to_string_lossy().into_owned())
}

fn range_of_addresses(text: &str) -> Result<IpNet, String> {
    text.trim().parse().map_err(|_| {
        "write an address, a slash, and how many of its bits count: 10.96.0.0/12, fd00:1::/108"
            .to_owned()
    })
}

#[cfg(test)]
mod tests;
