//! Plays the network policy controller of EKS on a cluster of `tests/cluster`: reads what there is, and writes
//! PolicyEndpoints of its shape. What they say is worked out by what the enforcer's own tests use for that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use podgate_enforcer::convert;
use podgate_policy::model::{ObjectName, Protocol, World};
use serde_json::{Value, json};

#[path = "../../enforcer/src/policyendpoints/tests/controller.rs"]
mod specs;

/// What the controller reads, and what it writes.
const KINDS: &str = "namespaces,pods,services,networkpolicies,policyendpoints";

/// The controller. It acts when [`Controller::reconcile`] is called.
#[derive(Debug)]
pub struct Controller {
    /// The program and its first arguments.
    kubectl: Vec<OsString>,
    chunk: usize,
}

/// What it wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Objects that are new.
    pub created: usize,
    /// Objects that say something else.
    pub replaced: usize,
    /// Objects that are gone.
    pub deleted: usize,
}

/// A NetworkPolicy that is not being deleted.
struct Owner {
    name: ObjectName,
    uid: String,
    policy: Arc<podgate_policy::model::NetworkPolicy>,
}

/// Everything in the cluster that matters to it.
#[derive(Default)]
struct Read {
    world: World,
    hosts: BTreeMap<ObjectName, String>,
    services: Vec<specs::Service>,
    owners: Vec<Owner>,
    /// Namespaces that are being deleted, into which nothing can be written.
    ending: BTreeSet<String>,
    /// PolicyEndpoints by the UID of their owner.
    slices: BTreeMap<String, Vec<Value>>,
}

impl Controller {
    /// A controller with `--endpoint-chunk-size` `chunk` that reaches the API server by this kubectl.
    pub fn new(kubectl: &Command, chunk: usize) -> Self {
        let words = std::iter::once(kubectl.get_program()).chain(kubectl.get_args());
        Self {
            kubectl: words.map(OsString::from).collect(),
            chunk,
        }
    }

    /// Reads everything, and writes what is missing, other, or too much. The garbage collector of the cluster does
    /// what remains of policies that are gone.
    ///
    /// # Errors
    /// When kubectl fails, which it also does when somebody else has changed an object meanwhile: call again.
    pub fn reconcile(&self) -> Result<Written> {
        let read = self.read()?;
        let controller = specs::Controller {
            chunk: self.chunk,
            services: read.services,
        };
        let host_of = |name: &ObjectName| {
            let host = read.hosts.get(name).and_then(|host| host.parse().ok());
            host.unwrap_or(std::net::IpAddr::from([0, 0, 0, 0]))
        };
        let (mut create, mut replace, mut delete) = (Vec::new(), Vec::new(), Vec::new());
        let lives = |owner: &&Owner| !read.ending.contains(&owner.name.namespace);
        for owner in read.owners.iter().filter(lives) {
            let specs = controller.specs(&read.world, &owner.name, &owner.policy, host_of);
            let mut known = read.slices.get(&owner.uid).into_iter().flatten();
            for spec in specs {
                match known.next() {
                    None => create.push(owner.slice(spec)),
                    Some(slice) if slice["spec"] != spec => {
                        let mut slice = slice.clone();
                        slice["spec"] = spec;
                        replace.push(slice);
                    }
                    Some(_) => {}
                }
            }
            delete.extend(known.cloned());
        }
        let written = Written {
            created: create.len(),
            replaced: replace.len(),
            deleted: delete.len(),
        };
        self.write("create", create)?;
        self.write("replace", replace)?;
        self.write("delete", delete)?;
        Ok(written)
    }

    fn read(&self) -> Result<Read> {
        let list = self.kubectl(&["get", KINDS, "-A", "-o", "json"], None)?;
        let list: Value = serde_json::from_slice(&list).context("read the list of objects")?;
        let mut read = Read::default();
        for item in list["items"].as_array().into_iter().flatten() {
            read.take(item.clone())?;
        }
        Ok(read)
    }

    fn write(&self, verb: &str, objects: Vec<Value>) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.kubectl(&[verb, "-f", "-"], Some(&list)).map(drop)
    }

    fn kubectl(&self, arguments: &[&str], input: Option<&Value>) -> Result<Vec<u8>> {
        let mut child = Command::new(&self.kubectl[0])
            .args(&self.kubectl[1..])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {:?}", self.kubectl))?;
        let mut stdin = child.stdin.take().context("kubectl has no stdin")?;
        if let Some(input) = input {
            stdin.write_all(input.to_string().as_bytes())?;
        }
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output.stdout)
    }
}

impl Owner {
    /// A new slice, which the API server gives a name.
    fn slice(&self, spec: Value) -> Value {
        json!({
            "apiVersion": "networking.k8s.aws/v1alpha1",
            "kind": "PolicyEndpoint",
            "metadata": {
                "generateName": format!("{}-", self.name.name),
                "namespace": self.name.namespace,
                "ownerReferences": [{
                    "apiVersion": "networking.k8s.io/v1",
                    "kind": "NetworkPolicy",
                    "name": self.name.name,
                    "uid": self.uid,
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "spec": spec,
        })
    }
}

impl Read {
    fn take(&mut self, item: Value) -> Result<()> {
        match item["kind"].as_str() {
            Some("Namespace") => {
                let object: Namespace = serde_json::from_value(item)?;
                let named = convert::namespace::convert(&object).value;
                if object.metadata.deletion_timestamp.is_some() {
                    self.ending.insert(named.name.clone());
                }
                self.world.namespaces.insert(named.name, named.namespace);
            }
            Some("Pod") => {
                let object: Pod = serde_json::from_value(item)?;
                let host = object.status.as_ref().and_then(|s| s.host_ip.clone());
                let pod = convert::pod::convert(&object).value;
                self.hosts
                    .insert(pod.name.clone(), host.unwrap_or_default());
                self.world.pods.insert(pod.name, pod.pod);
            }
            Some("Service") => {
                let object: Service = serde_json::from_value(item)?;
                self.services.extend(service(&object));
            }
            Some("NetworkPolicy") => {
                let object: NetworkPolicy = serde_json::from_value(item)?;
                if object.metadata.deletion_timestamp.is_none() {
                    let named = convert::network_policy::convert(&object).value;
                    self.owners.push(Owner {
                        name: named.name,
                        uid: object.metadata.uid.unwrap_or_default(),
                        policy: named.policy,
                    });
                }
            }
            Some("PolicyEndpoint") => {
                let owner = item.pointer("/metadata/ownerReferences/0/uid");
                let owner = owner.and_then(Value::as_str).unwrap_or_default().to_owned();
                self.slices.entry(owner).or_default().push(item);
            }
            Some(_) | None => bail!("an object of a kind that was not asked for: {item}"),
        }
        Ok(())
    }
}

/// A Service with a cluster address. Target ports that are names are not looked up.
fn service(object: &Service) -> Option<specs::Service> {
    let spec = object.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return None,
        };
        let number = u16::try_from(port.port).ok()?;
        let target = match &port.target_port {
            None => number,
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(target)) => {
                u16::try_from(*target).ok()?
            }
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(_)) => {
                return None;
            }
        };
        Some((protocol, number, target))
    });
    Some(specs::Service {
        namespace: object.metadata.namespace.clone()?,
        selector: spec.selector.clone().unwrap_or_default(),
        cluster_ip: spec.cluster_ip.as_ref()?.parse().ok()?,
        ports: ports.collect(),
    })
}
