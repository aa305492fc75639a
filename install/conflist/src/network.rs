// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One network of a CNI directory, and its chain with our plugin and without.

use std::fmt;

use serde_json::value::RawValue;
use thiserror::Error;

use crate::entry::Entry;
use crate::object::Object;

/// A network as a file gives it.
#[derive(Debug, Clone)]
pub struct Network {
    name: String,
    form: Form,
    plugins: Vec<Plugin>,
}

/// How a file says a network (CNI specification, "Network configuration format", and the older single plugin).
#[derive(Debug, Clone)]
enum Form {
    /// A list of plugins, in `plugins`.
    List(Object),
    /// One plugin, which carries the network's name and version.
    Single(Object),
}

#[derive(Debug, Clone)]
struct Plugin {
    kind: String,
    object: Object,
    text: Box<RawValue>,
}

/// Why a file is no network.
#[derive(Debug, Error)]
pub enum Malformed {
    /// It is not JSON, or a value is not of its type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A key that must be there is missing, or empty.
    #[error("{0:?} is missing or empty")]
    Missing(&'static str),
    /// A network's name is part of the names of files (CNI specification, "Network configuration format").
    #[error(
        "the network's name {0:?} is not letters, digits, '_', '.' and '-' after a letter or digit"
    )]
    Name(String),
    /// A plugin without a type.
    #[error("plugin {0} of the chain has no \"type\"")]
    Untyped(usize),
    /// A list in a file for one plugin.
    #[error("it has \"plugins\", and runtimes read those from files that end in .conflist only")]
    ListInConf,
}

/// Why a chain cannot have our plugin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// `bandwidth` with a limit on what every pod sends.
    #[error(
        "network {network:?} has the plugin bandwidth with a limit on what pods send (egressRate): it puts an ingress qdisc on \
         the host end of the veth, in the place of podgate's, so every ADD would fail; take egressRate and egressBurst out of it \
         (limits of what pods receive may stay)"
    )]
    LimitsEgress {
        /// The network's name.
        network: String,
    },
    /// A chain does not fit into a file for one plugin.
    #[error(
        "network {network:?} is a file for one plugin, and a chain needs one that ends in .conflist; use mode own"
    )]
    SinglePlugin {
        /// The network's name.
        network: String,
    },
    /// The network takes no plugin from another file.
    #[error(
        "network {network:?} has \"loadOnlyInlinedPlugins\": true, so runtimes ignore the drop-in directory; use mode own"
    )]
    InlinedOnly {
        /// The network's name.
        network: String,
    },
}

/// What a person should know of a chain that our plugin can be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// `bandwidth` limits pods that have an annotation.
    LimitsOnDemand {
        /// The network's name.
        network: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LimitsOnDemand { network } => write!(
                f,
                "network {network:?} has the plugin bandwidth: a pod with the annotation kubernetes.io/egress-bandwidth cannot \
                 start, because its ingress qdisc is in the place of podgate's; kubernetes.io/ingress-bandwidth works"
            ),
        }
    }
}

impl Network {
    /// Reads a file's bytes as a runtime does: by its name it is a list, or one plugin.
    ///
    /// # Errors
    /// When a runtime could not load it.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, Malformed> {
        let object: Object = serde_json::from_slice(bytes)?;
        let name = non_empty(&object, "name")?;
        let is_inner = |it: char| it.is_ascii_alphanumeric() || "_.-".contains(it);
        if !name.starts_with(|it: char| it.is_ascii_alphanumeric()) || !name.chars().all(is_inner) {
            return Err(Malformed::Name(name));
        }
        if !file.ends_with(".conflist") {
            if object.get("plugins").is_some() {
                return Err(Malformed::ListInConf);
            }
            let kind = non_empty(&object, "type")?;
            let text = RawValue::from_string(render_inline(&object))?;
            return Ok(Self {
                name,
                plugins: vec![Plugin {
                    kind,
                    object: object.clone(),
                    text,
                }],
                form: Form::Single(object),
            });
        }
        let texts: Vec<Box<RawValue>> = object
            .get_as("plugins")
            .ok_or(Malformed::Missing("plugins"))??;
        if texts.is_empty() {
            return Err(Malformed::Missing("plugins"));
        }
        let mut plugins = Vec::new();
        for (number, text) in texts.into_iter().enumerate() {
            let object: Object = serde_json::from_str(text.get())?;
            let kind = non_empty(&object, "type").map_err(|_| Malformed::Untyped(number))?;
            plugins.push(Plugin { kind, object, text });
        }
        Ok(Self {
            name,
            plugins,
            form: Form::List(object),
        })
    }

    /// The network's name, under which runtimes and IPAM plugins keep what belongs to it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether our plugin is in the chain.
    #[must_use]
    pub fn has_ours(&self) -> bool {
        self.plugins.iter().any(Plugin::is_ours)
    }

    /// The network with our plugin, once, and last: what a plugin behind it does to the pod's interfaces would not be policed.
    ///
    /// # Errors
    /// When a plugin of the chain and ours exclude each other.
    pub fn with(&self, ours: &Entry) -> Result<String, Refusal> {
        self.accept()?;
        let others = self.others().map(|it| it.text.get());
        Ok(self.render(others.chain([ours.text()])))
    }

    /// The network's own file with our plugin, as [`Self::with`].
    ///
    /// # Errors
    /// When the file cannot hold a chain, or a plugin of the chain and ours exclude each other.
    pub fn edited(&self, ours: &Entry) -> Result<String, Refusal> {
        match self.form {
            Form::List(_) => self.with(ours),
            Form::Single(_) => Err(Refusal::SinglePlugin {
                network: self.name.clone(),
            }),
        }
    }

    /// The network without our plugin; none where nothing would be left.
    #[must_use]
    pub fn without(&self) -> Option<String> {
        let others = || self.others().map(|it| it.text.get());
        others().next()?;
        Some(self.render(others()))
    }

    /// The file that adds our plugin from the network's drop-in directory.
    ///
    /// # Errors
    /// When the network takes none, or a plugin of the chain and ours exclude each other.
    pub fn drop_in(&self, ours: &Entry) -> Result<String, Refusal> {
        self.accept()?;
        if matches!(
            self.object().get_as("loadOnlyInlinedPlugins"),
            Some(Ok(true))
        ) {
            return Err(Refusal::InlinedOnly {
                network: self.name.clone(),
            });
        }
        Ok(ours.drop_in(self.object().get("cniVersion").map(RawValue::get)))
    }

    /// What a person should know before pods are set up by this chain and our plugin.
    pub fn notices(&self) -> impl Iterator<Item = Notice> {
        let on_demand = |it: &&Plugin| it.kind == "bandwidth" && !it.limits_egress();
        self.others()
            .filter(on_demand)
            .map(|_| Notice::LimitsOnDemand {
                network: self.name.clone(),
            })
    }

    fn accept(&self) -> Result<(), Refusal> {
        if self.plugins.iter().any(Plugin::limits_egress) {
            return Err(Refusal::LimitsEgress {
                network: self.name.clone(),
            });
        }
        Ok(())
    }

    fn object(&self) -> &Object {
        match &self.form {
            Form::List(object) | Form::Single(object) => object,
        }
    }

    fn others(&self) -> impl Iterator<Item = &Plugin> {
        self.plugins.iter().filter(|it| !it.is_ours())
    }

    /// A conflist of these plugins: a single plugin becomes a list as libcni's `ConfListFromConf` makes it, without a version
    /// where it has none.
    fn render<'a>(&self, plugins: impl Iterator<Item = &'a str>) -> String {
        let plugins: Vec<String> = plugins.map(|it| format!("    {it}")).collect();
        let plugins = format!("[\n{}\n  ]", plugins.join(",\n"));
        let keys: Vec<(&str, &str)> = match &self.form {
            Form::List(object) => object
                .iter()
                .map(|(key, value)| match key {
                    "plugins" => (key, &*plugins),
                    _ => (key, value),
                })
                .collect(),
            Form::Single(object) => ["cniVersion", "name"]
                .into_iter()
                .filter_map(|key| Some((key, object.get(key)?.get())))
                .chain([("plugins", &*plugins)])
                .collect(),
        };
        let lines: Vec<String> = keys
            .into_iter()
            .map(|(key, value)| format!("  {}: {value}", serde_json::Value::from(key)))
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

impl Plugin {
    fn is_ours(&self) -> bool {
        self.kind == Entry::TYPE
    }

    /// Whether it limits what every pod sends: `bandwidth` makes its ingress qdisc when one of these numbers is not zero.
    fn limits_egress(&self) -> bool {
        let is_set = |key| match self.object.get_as::<f64>(key) {
            Some(Ok(number)) => number != 0.0,
            Some(Err(_)) => true,
            None => false,
        };
        self.kind == "bandwidth" && (is_set("egressRate") || is_set("egressBurst"))
    }
}

fn non_empty(object: &Object, key: &'static str) -> Result<String, Malformed> {
    match object.get_as::<String>(key) {
        Some(Ok(text)) if !text.is_empty() => Ok(text),
        Some(Ok(_)) | None => Err(Malformed::Missing(key)),
        Some(Err(wrong)) => Err(wrong.into()),
    }
}

/// The object on one line for each key, indented as an element of `plugins`.
fn render_inline(object: &Object) -> String {
    let lines: Vec<String> = object
        .iter()
        .map(|(key, value)| format!("      {}: {value}", serde_json::Value::from(key)))
        .collect();
    format!("{{\n{}\n    }}", lines.join(",\n"))
}
