// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podgate_policy::model::{HostPort, NamedPort, ObjectName, Pod, PodUid, Protocol, Started};

use super::{Converted, FieldErrors, FieldPath, addresses, names, selector};

/// A pod with its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentifiedPod {
    /// Its namespace and name.
    pub name: ObjectName,
    /// For the mirror of a static pod, the UID under which the kubelet hands it to the runtime: the annotation
    /// `kubernetes.io/config.hash`. The mirror's own UID is another one.
    pub config_hash: Option<String>,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// What policies see of it. Its addresses are those of `status`.
    pub pod: Arc<Pod>,
}

/// Converts a Pod.
///
/// Named ports are those of containers and of restartable init containers (`restartPolicy: Always`), as Kubernetes'
/// own look-up has it; a pod being deleted stays as it is until its phase or its object goes.
pub fn convert(object: &v1::Pod) -> Converted<IdentifiedPod> {
    let mut errors = FieldErrors::default();
    let name = object_name(&object.metadata, &mut errors);
    let labels = selector::labels(object.metadata.labels.as_ref(), &mut errors);
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let addresses = status
        .map(|s| pod_addresses(s, &mut errors))
        .unwrap_or_default();
    let started = status
        .and_then(|s| s.start_time.as_ref())
        .filter(|_| !addresses.is_empty())
        .map(|time| Started(time.0.as_second()));
    let ports = spec.map(|s| ports(s, &mut errors)).unwrap_or_default();
    let named_ports = named_ports(&ports, &mut errors);
    let host_ports = if host_network {
        Vec::new()
    } else {
        host_ports(&ports, &mut errors)
    };
    let pod = Pod {
        labels,
        addresses,
        ports: named_ports,
        host_network,
        finished: matches!(
            status.and_then(|s| s.phase.as_deref()),
            Some("Succeeded" | "Failed")
        ),
        uid: object.metadata.uid.as_deref().map(uid),
        node: spec
            .and_then(|s| s.node_name.clone())
            .filter(|_| !host_ports.is_empty()),
        host_ports,
        started,
    };
    errors.beside(IdentifiedPod {
        name,
        config_hash: config_hash(&object.metadata),
        node: spec.and_then(|s| s.node_name.as_deref()).map(Arc::from),
        pod: Arc::new(pod),
    })
}

/// The hash of a static pod's file, of its mirror only: any other pod may carry whatever its author wrote.
fn config_hash(metadata: &ObjectMeta) -> Option<String> {
    let annotations = metadata.annotations.as_ref()?;
    annotations.get("kubernetes.io/config.mirror")?;
    annotations.get("kubernetes.io/config.hash").cloned()
}

/// The name of a namespaced object; without a namespace it is in `default`.
pub(crate) fn object_name(metadata: &ObjectMeta, errors: &mut FieldErrors) -> ObjectName {
    let name = metadata.name.clone().unwrap_or_default();
    errors.keep(&FieldPath::of("metadata.name"), names::dns_subdomain(&name));
    let namespace = match metadata.namespace.as_deref() {
        None | Some("") => "default".to_owned(),
        Some(namespace) => namespace.to_owned(),
    };
    errors.keep(
        &FieldPath::of("metadata.namespace"),
        names::dns_label(&namespace),
    );
    ObjectName { namespace, name }
}

/// A UID as it is written.
pub(super) fn uid(text: &str) -> PodUid {
    PodUid(text.into())
}

fn pod_addresses(status: &v1::PodStatus, errors: &mut FieldErrors) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let list = FieldPath::of("status.podIPs");
    let first = status
        .pod_ip
        .iter()
        .map(|ip| (FieldPath::of("status.podIP"), ip.as_str()));
    let all = status
        .pod_ips
        .iter()
        .flatten()
        .enumerate()
        .map(|(i, ip)| (list.index(i).key("ip"), ip.ip.as_str()));
    for (path, text) in first.chain(all) {
        if text.is_empty() {
            continue;
        }
        if let Some(address) = errors.keep(&path, addresses::address(text))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The ports of a container that can be read, each with its path, its number and its protocol.
type ReadPorts<'a> = Vec<(FieldPath, &'a v1::ContainerPort, u16, Protocol)>;

/// The ports of the containers that run as long as the pod does: containers and restartable init containers.
fn ports<'a>(spec: &'a v1::PodSpec, errors: &mut FieldErrors) -> ReadPorts<'a> {
    let mut found = Vec::new();
    let init = FieldPath::of("spec.initContainers");
    let main = FieldPath::of("spec.containers");
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .enumerate()
        .filter(|(_, c)| c.restart_policy.as_deref() == Some("Always"))
        .map(|(i, c)| (init.index(i), c));
    let containers = spec
        .containers
        .iter()
        .enumerate()
        .map(|(i, c)| (main.index(i), c));
    for (path, container) in sidecars.chain(containers) {
        let path = path.key("ports");
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let path = path.index(i);
            let number = errors.keep(
                &path.key("containerPort"),
                names::port_number(port.container_port),
            );
            let protocol = errors.keep(
                &path.key("protocol"),
                names::protocol(port.protocol.as_deref()),
            );
            if let (Some(number), Some(protocol)) = (number, protocol) {
                found.push((path, port, number, protocol));
            }
        }
    }
    found
}

fn named_ports(ports: &ReadPorts<'_>, errors: &mut FieldErrors) -> Vec<NamedPort> {
    let mut found = Vec::new();
    for (path, port, number, protocol) in ports {
        let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) else {
            continue;
        };
        if errors
            .keep(&path.key("name"), names::port_name(name))
            .is_some()
        {
            found.push(NamedPort {
                name: name.to_owned(),
                protocol: *protocol,
                number: *number,
            });
        }
    }
    found
}

/// A `hostIP` that is unspecified, of whatever family, means every address of the node.
fn host_ports(ports: &ReadPorts<'_>, errors: &mut FieldErrors) -> Vec<HostPort> {
    let mut found = Vec::new();
    for (path, port, target, protocol) in ports {
        let Some(number) = port.host_port.filter(|number| *number != 0) else {
            continue;
        };
        let number = errors.keep(&path.key("hostPort"), names::port_number(number));
        let address = match port.host_ip.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => errors
                .keep(&path.key("hostIP"), addresses::address(text))
                .filter(|address| !address.is_unspecified()),
            None => None,
        };
        if let Some(number) = number {
            found.push(HostPort {
                address,
                protocol: *protocol,
                number,
                target: *target,
            });
        }
    }
    found
}
