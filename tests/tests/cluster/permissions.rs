//! The ClusterRole of `install/rbac.yaml`: the enforcer needs each permission, and says which one it lacks.

use std::time::Duration;

use podgate_tests::cluster::{Alone, Cluster, Enforcer, Readiness, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

const WHO: &str = "--as=system:serviceaccount:kube-system:podgate-enforcer";

/// The shipped role; given back when the value is dropped.
struct Role<'a> {
    cluster: &'a Alone,
    shipped: Value,
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        self.grant(&self.shipped);
    }
}

impl<'a> Role<'a> {
    fn shipped(cluster: &'a Alone) -> Self {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../install/rbac.yaml");
        cluster.kubectl(&["apply", "-f", file]);
        let mut shipped = cluster.get(&["clusterrole", "podgate-enforcer"]);
        shipped["metadata"] = json!({"name": "podgate-enforcer"});
        Self { cluster, shipped }
    }

    /// Every permission: group, resource, verb.
    fn permissions(&self) -> Vec<[String; 3]> {
        let mut all = Vec::new();
        for rule in texts_of(&self.shipped, "rules") {
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

    /// Takes one permission away, and waits until the API server knows.
    fn without(&self, [group, resource, verb]: &[String; 3]) {
        let rules: Vec<Value> = self
            .permissions()
            .iter()
            .filter(|[g, r, v]| [g, r, v] != [group, resource, verb])
            .map(|[g, r, v]| json!({"apiGroups": [g], "resources": [r], "verbs": [v]}))
            .collect();
        let mut role = self.shipped.clone();
        role["rules"] = rules.into();
        self.grant(&role);
        self.knows(resource, group, verb, false);
    }

    /// Gives everything back, and waits until the API server knows.
    fn whole(&self, [group, resource, verb]: &[String; 3]) {
        self.grant(&self.shipped);
        self.knows(resource, group, verb, true);
    }

    fn knows(&self, resource: &str, group: &str, verb: &str, allowed: bool) {
        let resource = format!("{resource}.{group}");
        wait_for("the API server knows the role", LIMIT, || {
            let asked = [
                "auth",
                "can-i",
                verb,
                resource.trim_end_matches('.'),
                "-A",
                WHO,
            ];
            self.cluster.try_kubectl(&asked).is_ok() == allowed
        });
    }

    fn grant(&self, role: &Value) {
        self.cluster.apply(&role.to_string());
    }
}

fn texts_of<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().expect("a list")
}

fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().expect("a list").iter();
    texts
        .map(|text| text.as_str().expect("a text").to_owned())
        .collect()
}

#[test]
fn without_one_permission_the_enforcer_is_not_ready_and_says_which_and_with_it_is_ready_again() {
    let cluster = Cluster::alone();
    let role = Role::shipped(&cluster);
    let listed = ["pods", "namespaces", "networkpolicies"];
    for permission in role.permissions() {
        let [_, resource, verb] = &permission;
        if !listed.contains(&resource.as_str()) || verb == "get" {
            continue;
        }
        role.without(&permission);
        let flags = ["--source", "networkpolicies"];
        let enforcer = Enforcer::begin(&cluster, "node1", &flags);
        wait_for(
            &format!("{verb} {resource} is missed"),
            LIMIT,
            || match enforcer.readiness() {
                Readiness::Ready => false,
                Readiness::Not(said) => {
                    said.contains("forbidden") && said.contains(resource.as_str())
                }
            },
        );
        assert!(enforcer.log().contains("forbidden"), "{}", enforcer.log());
        role.whole(&permission);
        enforcer.wait_until_ready(LIMIT);
    }
}
