// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What becomes of foreign addresses at this node's attachments: what the node's flags say, and what a Namespace says
//! where the node obeys it. A pod cannot say it: who may write pods could take any address.

use std::collections::BTreeSet;

use podgate_abi::Foreign;
use podgate_datapath::record::{Record, Slot};

use super::Cluster;
use crate::convert::namespace::FOREIGN_ADDRESSES;
use crate::warning::{Matter, Object, Warning};

/// What the flags say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForeignSetting {
    /// For pods of Namespaces that do not say otherwise.
    pub node: Foreign,
    /// Whether Namespaces may say otherwise.
    pub by_namespace: bool,
}

/// The values of the flag, and of the annotation.
fn named(value: &str) -> Option<Foreign> {
    match value {
        "deny" => Some(Foreign::Deny),
        "unisolated" => Some(Foreign::Unisolated),
        "allow" => Some(Foreign::Allow),
        _ => None,
    }
}

impl Cluster {
    /// The flags say this.
    pub fn set_foreign(&mut self, setting: ForeignSetting) {
        self.foreign = setting;
    }

    /// What becomes of foreign addresses at every attachment.
    pub fn foreign_modes(&self) -> Vec<(Slot, Foreign)> {
        let mode = |record: &Record| (record.slot, self.foreign_mode(record));
        self.records().map(mode).collect()
    }

    /// A Namespace that is not known may deny them.
    fn foreign_mode(&self, record: &Record) -> Foreign {
        let ForeignSetting { node, by_namespace } = self.foreign;
        let Some(pod) = record.pod.as_ref().filter(|_| by_namespace) else {
            return node;
        };
        match self.view.world.namespaces.get(&pod.namespace) {
            None => Foreign::Deny,
            Some(namespace) => {
                let says = namespace.foreign_addresses.as_deref();
                says.and_then(named).unwrap_or(node)
            }
        }
    }

    /// What is wrong with the annotations of Namespaces that have attachments here.
    pub fn foreign_warnings(&self) -> Vec<Warning> {
        if !self.foreign.by_namespace {
            return Vec::new();
        }
        let pods = self.records().filter_map(|record| record.pod.as_ref());
        let names: BTreeSet<&str> = pods.map(|pod| pod.namespace.as_str()).collect();
        let wrong = names.into_iter().filter_map(|name| {
            let says = self.view.world.namespaces.get(name)?.foreign_addresses.as_deref()?;
            named(says).is_none().then(|| {
                let text = format!(
                    "Namespace {name}: the annotation {FOREIGN_ADDRESSES} is {says:?}, and not deny, unisolated or allow: its \
                     pods have what --foreign-addresses says"
                );
                Warning::about(Object::namespace(name), Matter::AnnotationInvalid, text)
            })
        });
        wrong.collect()
    }
}
