// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which Events a condition asks for, and what they say. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;

use crate::warning::{Matter, Object, Warning};

/// How podgate names itself in Events.
const CONTROLLER: &str = "podgate.io/enforcer";

/// Where Events of objects without a namespace are.
const NO_NAMESPACE: &str = "default";

/// What the API server takes as note, in bytes.
const NOTE: usize = 1024;

/// What it takes as name of who reports, in bytes.
const INSTANCE: usize = 128;

/// So many objects of one namespace have Events: its owner leaves room for others'.
pub(super) const OF_NAMESPACE: usize = 16;

/// Which Event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The namespace that it is in.
    pub(super) namespace: String,
    /// Its name, the same from every node.
    pub(super) name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An Event that ought to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) place: Place,
    pub(super) object: Object,
    matter: Matter,
    /// What is to be said, each a sentence.
    texts: Vec<String>,
}

/// The Events of these warnings: one for an object and a matter, whatever there is to say of it.
pub(super) fn of(warnings: &[Warning]) -> BTreeMap<Place, Draft> {
    let mut drafts: BTreeMap<Place, Draft> = BTreeMap::new();
    let mut of_namespace: BTreeMap<&str, usize> = BTreeMap::new();
    for Warning { text, about } in warnings {
        let Some((object, matter)) = about else {
            continue;
        };
        let place = Place::of(object, *matter);
        if let Some(draft) = drafts.get_mut(&place) {
            draft.texts.push(text.clone());
            continue;
        }
        let number = of_namespace.entry(&object.name.namespace).or_default();
        *number += 1;
        if *number > OF_NAMESPACE {
            continue;
        }
        let draft = Draft {
            place: place.clone(),
            object: object.clone(),
            matter: *matter,
            texts: vec![text.clone()],
        };
        drafts.insert(place, draft);
    }
    drafts
}

impl Place {
    fn of(object: &Object, matter: Matter) -> Self {
        let Object {
            api_version,
            kind,
            name,
            uid,
        } = object;
        let uid = uid.as_deref().unwrap_or_default();
        let parts = [
            api_version,
            kind,
            &name.namespace,
            &name.name,
            uid,
            matter.word(),
        ];
        let namespace = match name.namespace.as_str() {
            "" => NO_NAMESPACE,
            namespace => namespace,
        };
        Self {
            namespace: namespace.to_owned(),
            name: format!("podgate.{:016x}", hash(&parts)),
        }
    }
}

impl Draft {
    /// What is written.
    pub(super) fn event(&self, node: &str, now: Timestamp) -> v1::Event {
        let Self {
            place,
            object,
            matter,
            texts,
        } = self;
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        v1::Event {
            metadata: ObjectMeta {
                namespace: Some(place.namespace.clone()),
                name: Some(place.name.clone()),
                ..ObjectMeta::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some(matter.word().to_owned()),
            action: Some("Enforce".to_owned()),
            note: Some(note(texts, node)),
            regarding: Some(ObjectReference {
                api_version: Some(object.api_version.clone()),
                kind: Some(object.kind.clone()),
                namespace: some(&object.name.namespace),
                name: Some(object.name.name.clone()),
                uid: object.uid.clone(),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(cut(node, INSTANCE).to_owned()),
            event_time: Some(MicroTime(now)),
            ..v1::Event::default()
        }
    }
}

/// What was said, as much as there is room for, and on which node.
fn note(texts: &[String], node: &str) -> String {
    const MORE: &str = " …";
    let by = format!(" (node {})", cut(node, INSTANCE));
    let all = texts.join("; ");
    let room = NOTE - by.len();
    if all.len() <= room {
        return all + &by;
    }
    format!("{}{MORE}{by}", cut(&all, room - MORE.len()))
}

/// So many bytes of a text at most, by whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// FNV-1a: the same on all nodes, whatever built their enforcers.
pub(super) fn hash(parts: &[&str]) -> u64 {
    let separated = parts.iter().flat_map(|part| part.bytes().chain([0]));
    separated.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use podgate_policy::model::ObjectName;

    use super::*;

    fn policy(namespace: &str, name: &str, uid: &str) -> Object {
        let name = ObjectName::new(namespace, name);
        Object::of::<NetworkPolicy>(name, Some(uid.to_owned()))
    }

    fn warning(object: &Object, matter: Matter, text: &str) -> Warning {
        Warning::about(object.clone(), matter, text.to_owned())
    }

    /// Place, regarding, reason and note of each.
    fn said(warnings: &[Warning]) -> Vec<[String; 4]> {
        let drafts = of(warnings).into_values();
        let said = drafts.map(|draft| {
            let event = draft.event("node1", Timestamp::UNIX_EPOCH);
            let regarding = event.regarding.unwrap();
            let parts = [
                regarding.api_version,
                regarding.kind,
                regarding.namespace,
                regarding.name,
                regarding.uid,
            ];
            let parts = parts.map(|part| part.unwrap_or_else(|| "-".to_owned()));
            [
                draft.place.to_string(),
                parts.join(" "),
                event.reason.unwrap(),
                event.note.unwrap(),
            ]
        });
        said.collect()
    }

    /// An object and a matter have one Event, which says what there is to say.
    #[test]
    fn an_object_and_a_matter_have_one_event() {
        let shop = Object::namespace("shop");
        let web = policy("shop", "web", "u1");
        let cluster_wide = Object {
            api_version: "networking.k8s.aws/v1alpha1".to_owned(),
            kind: "ClusterPolicyEndpoint".to_owned(),
            name: ObjectName::new("", "all"),
            uid: None,
        };
        let table: &[(&[Warning], &[[&str; 4]])] = &[
            (&[], &[]),
            // The node's own matters are nobody else's.
            (&["a table is full".to_owned().into()], &[]),
            (
                &[warning(&shop, Matter::PoliciesSuspended, "too heavy")],
                &[[
                    "shop/podgate.140e6cc50179b95e",
                    "v1 Namespace shop shop -",
                    "PoliciesSuspended",
                    "too heavy (node node1)",
                ]],
            ),
            (
                &[
                    warning(&web, Matter::PolicyInvalid, "a is odd"),
                    warning(&web, Matter::PolicyInvalid, "b is odd"),
                    warning(&web, Matter::PolicyEndpointsMissing, "none"),
                ],
                &[
                    [
                        "shop/podgate.",
                        "networking.k8s.io/v1 NetworkPolicy shop web u1",
                        "PolicyInvalid",
                        "a is odd; b is odd (node node1)",
                    ],
                    [
                        "shop/podgate.",
                        "networking.k8s.io/v1 NetworkPolicy shop web u1",
                        "PolicyEndpointsMissing",
                        "none (node node1)",
                    ],
                ],
            ),
            (
                &[warning(&cluster_wide, Matter::PolicyNotEnforced, "no")],
                &[[
                    "default/podgate.",
                    "networking.k8s.aws/v1alpha1 ClusterPolicyEndpoint - all -",
                    "PolicyNotEnforced",
                    "no (node node1)",
                ]],
            ),
        ];
        for (warnings, expected) in table {
            let mut said = said(warnings);
            said.sort_by(|a, b| a[3].cmp(&b[3]));
            assert_eq!(said.len(), expected.len(), "{said:?}");
            for (said, expected) in said.iter().zip(*expected) {
                assert!(said[0].starts_with(expected[0]), "{said:?}");
                assert_eq!(said[1..], expected[1..]);
            }
        }
    }

    /// The name of an Event is of the object and the matter, and not of what is said.
    #[test]
    fn an_event_name_is_of_object_and_matter_and_not_of_text() {
        let name = |object: &Object, matter| Place::of(object, matter).name;
        let web = policy("shop", "web", "u1");
        let all = [
            name(&web, Matter::PolicyInvalid),
            name(&web, Matter::PolicyEndpointsMissing),
            name(&policy("shop", "web", "u2"), Matter::PolicyInvalid),
            name(&policy("shop", "we", "bu1"), Matter::PolicyInvalid),
            name(&Object::namespace("shop"), Matter::PolicyInvalid),
        ];
        for (number, one) in all.iter().enumerate() {
            assert!(one.len() <= 253 && one.starts_with("podgate."), "{one}");
            assert!(!all[..number].contains(one), "{all:?}");
        }
        let [one, other] = ["97 of 100", "98 of 100"]
            .map(|text| said(&[warning(&web, Matter::PolicyInvalid, text)])[0][0].clone());
        assert_eq!(one, other);
    }

    #[test]
    fn no_note_and_no_instance_is_longer_than_the_api_server_takes() {
        let web = policy("shop", "web", "u1");
        for (length, node) in [(3, 3), (996, 9), (5000, 9), (5000, 253)] {
            let text = "ä".repeat(length);
            let drafts = of(&[warning(&web, Matter::PolicyInvalid, &text)]);
            let draft = drafts.into_values().next().unwrap();
            let event = draft.event(&"n".repeat(node), Timestamp::UNIX_EPOCH);
            let note = event.note.unwrap();
            assert!(note.len() <= NOTE && note.ends_with(')'), "{note}");
            assert_eq!(note.contains('…'), length > 500, "{note}");
            assert!(event.reporting_instance.unwrap().len() <= INSTANCE);
        }
    }

    #[test]
    fn one_namespace_leaves_room_for_the_events_of_others() {
        let many = (0..1000).map(|n| policy("large", &n.to_string(), "u"));
        let objects = many.chain([policy("shop", "web", "u")]);
        let warnings: Vec<_> = objects
            .map(|object| warning(&object, Matter::PolicyInvalid, "odd"))
            .collect();
        let drafts = of(&warnings);
        assert_eq!(drafts.len(), OF_NAMESPACE + 1);
        assert!(drafts.keys().any(|place| place.namespace == "shop"));
    }
}
