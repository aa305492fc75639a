// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ClusterRole of `install/rbac.yaml`, which tests take permissions from.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

const WHO: &str = "--as=system:serviceaccount:kube-system:podgate-enforcer";

/// What the enforcer may do; all of it again when the value is dropped.
#[derive(Debug)]
pub struct Role<'a> {
    cluster: &'a Cluster,
    shipped: Value,
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        // Other tests would miss it; they say what they miss.
        self.grant(&self.shipped).ok();
    }
}

impl<'a> Role<'a> {
    /// Grants what `install/rbac.yaml` says.
    pub fn shipped(cluster: &'a Cluster) -> Self {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../install/rbac.yaml");
        cluster.kubectl(&["apply", "-f", file]);
        let mut shipped = cluster.get(&["clusterrole", "podgate-enforcer"]);
        shipped["metadata"] = json!({"name": "podgate-enforcer"});
        Self { cluster, shipped }
    }

    /// Every permission: group, resource, verb.
    pub fn permissions(&self) -> Vec<[String; 3]> {
        let mut all = Vec::new();
        for rule in list(&self.shipped["rules"]) {
            for group in strings(&rule["apiGroups"]) {
                for resource in strings(&rule["resources"]) {
                    for verb in strings(&rule["verbs"]) {
                        all.push([group.clone(), resource.clone(), verb]);
                    }
                }
            }
        }
        all
    }

    /// Takes permissions away, and waits until the API server knows.
    pub fn without(&self, taken: &[[String; 3]]) {
        let rules: Vec<Value> = self
            .permissions()
            .iter()
            .filter(|permission| !taken.contains(permission))
            .map(|[g, r, v]| json!({"apiGroups": [g], "resources": [r], "verbs": [v]}))
            .collect();
        let mut role = self.shipped.clone();
        role["rules"] = rules.into();
        self.grant(&role).expect("take permissions away");
        self.wait_until_known(taken, false);
    }

    /// Gives everything back, and waits until the API server knows.
    pub fn whole(&self, taken: &[[String; 3]]) {
        self.grant(&self.shipped).expect("give permissions back");
        self.wait_until_known(taken, true);
    }

    fn wait_until_known(&self, permissions: &[[String; 3]], granted: bool) {
        for [group, resource, verb] in permissions {
            let resource = format!("{resource}.{group}");
            let resource = resource.trim_end_matches('.');
            wait_for("the API server knows the role", LIMIT, || {
                let asked = ["auth", "can-i", verb, resource, "-A", WHO];
                self.cluster.try_kubectl(&asked).is_ok() == granted
            });
        }
    }

    fn grant(&self, role: &Value) -> Result<(), String> {
        self.cluster.try_apply(&role.to_string())
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn strings(value: &Value) -> Vec<String> {
    list(value)
        .iter()
        .map(|text| text.as_str().expect("a text").to_owned())
        .collect()
}
