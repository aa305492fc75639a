// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Services (v1), as kube-proxy reads them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use podgate_policy::model::{ObjectName, Service, ServicePort, TrafficPolicy};

use super::pod::object_name;
use super::{Converted, FieldErrors, FieldPath, addresses, distinct, names};

/// The label by which a Service says that another proxy than kube-proxy serves it.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// The label of headless Services, and of their EndpointSlices.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A Service and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedService {
    /// Its namespace and name.
    pub name: ObjectName,
    /// What kube-proxy does about it.
    pub service: Arc<Service>,
}

/// Converts a Service. What cannot be read of it leads nowhere: kube-proxy cannot read it either.
pub fn convert(object: &v1::Service) -> Converted<NamedService> {
    let mut errors = FieldErrors::default();
    let name = object_name(&object.metadata, &mut errors);
    let mut service = Service::default();
    if let Some(spec) = &object.spec {
        let read = read(object, spec, &mut errors);
        let is_a_name_only = spec.type_.as_deref() == Some("ExternalName");
        let is_headless = spec.cluster_ip.as_deref() == Some("None");
        if !is_a_name_only && !is_headless && !is_left_alone(object.metadata.labels.as_ref()) {
            service = read;
        }
    }
    errors.beside(NamedService {
        name,
        service: Arc::new(service),
    })
}

/// Whether kube-proxy asks the API server not to show it objects with these labels.
pub(super) fn is_left_alone(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.is_some_and(|labels| labels.contains_key(PROXY_NAME) || labels.contains_key(HEADLESS))
}

fn read(object: &v1::Service, spec: &v1::ServiceSpec, errors: &mut FieldErrors) -> Service {
    let path = FieldPath::of("spec");
    let mut cluster = listed(&path.key("clusterIPs"), spec.cluster_ips.as_deref());
    cluster.extend(spec.cluster_ip.iter().map(|ip| (path.key("clusterIP"), ip)));
    let external = listed(&path.key("externalIPs"), spec.external_ips.as_deref());
    Service {
        cluster_addresses: addresses_of(cluster, errors),
        external_addresses: addresses_of(external, errors),
        balancer_addresses: addresses_of(balancers(object), errors),
        ports: ports(spec.ports.as_deref(), &path.key("ports"), errors),
        internal_traffic: match spec.internal_traffic_policy.as_deref() {
            None | Some("Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(other) => {
                errors.add(
                    &path.key("internalTrafficPolicy"),
                    format!("{other:?} is not a traffic policy: use Cluster or Local"),
                );
                TrafficPolicy::Cluster
            }
        },
    }
}

/// Addresses as they are written, each with its path.
type Texts<'a> = Vec<(FieldPath, &'a String)>;

fn listed<'a>(path: &FieldPath, texts: Option<&'a [String]>) -> Texts<'a> {
    let texts = texts.unwrap_or_default().iter().enumerate();
    texts.map(|(i, text)| (path.index(i), text)).collect()
}

/// The addresses of load balancers. What is sent to one in mode `Proxy` passes by it, and comes back from it.
fn balancers(object: &v1::Service) -> Texts<'_> {
    let path = FieldPath::of("status.loadBalancer.ingress");
    let status = object.status.as_ref();
    let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref());
    let all = ingress.unwrap_or_default().iter().enumerate();
    all.filter(|(_, balancer)| balancer.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|(i, balancer)| Some((path.index(i).key("ip"), balancer.ip.as_ref()?)))
        .collect()
}

fn addresses_of(texts: Texts<'_>, errors: &mut FieldErrors) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (path, text) in texts {
        if text.is_empty() || text == "None" {
            continue;
        }
        found.extend(errors.keep(&path, addresses::address(text)));
    }
    distinct(found)
}

fn ports(
    ports: Option<&[v1::ServicePort]>,
    path: &FieldPath,
    errors: &mut FieldErrors,
) -> Vec<ServicePort> {
    let mut found = Vec::new();
    for (i, port) in ports.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        let name = port.name.clone().unwrap_or_default();
        if !name.is_empty() {
            errors.keep(&path.key("name"), names::dns_label(&name));
        }
        let number = errors.keep(&path.key("port"), names::port_number(port.port));
        let protocol = errors.keep(
            &path.key("protocol"),
            names::protocol(port.protocol.as_deref()),
        );
        let node_port = port
            .node_port
            .filter(|number| *number != 0)
            .and_then(|number| errors.keep(&path.key("nodePort"), names::port_number(number)));
        if let (Some(number), Some(protocol)) = (number, protocol) {
            found.push(ServicePort {
                name,
                protocol,
                number,
                node_port,
            });
        }
    }
    found
}
