// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods that come near to what they may have of the table of flows: named before it bites.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use podgate_datapath::record::{Record, Slot};
use podgate_datapath::tables::FlowUse;
use podgate_policy::model::ObjectName;

use crate::warning::{Matter, Object, Warning};

/// How much of what it may have a pod may use before it is named, in percent.
const NEAR: u64 = 80;

/// What was found when the counts were read last.
#[derive(Debug, Default)]
pub(super) struct Crowded {
    found: FlowUse,
    /// Those that are near.
    near: BTreeMap<Slot, Near>,
}

/// Whose flows they are.
#[derive(Debug)]
struct Near {
    name: String,
    /// None: nobody knows its pod.
    pod: Option<Object>,
}

impl Near {
    fn of(record: &Record) -> Self {
        let Some(pod) = &record.pod else {
            return Self {
                name: record.identity.to_string(),
                pod: None,
            };
        };
        let name = ObjectName::new(&pod.namespace, &pod.name);
        Self {
            name: name.to_string(),
            pod: Some(Object::of::<v1::Pod>(name, pod.uid.clone())),
        }
    }
}

/// The part that is used, where 1 is all.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; counts of flows are far below 2^53"
)]
fn share(used: u64, limit: u64) -> f64 {
    used as f64 / limit.max(1) as f64
}

const fn is_near(used: u64, limit: u64) -> bool {
    used.saturating_mul(100) >= limit.saturating_mul(NEAR)
}

impl Crowded {
    /// Takes in what the attachments have; logs who came near and who went away from it.
    pub(super) fn take<'a>(&mut self, found: FlowUse, records: impl Iterator<Item = &'a Record>) {
        let limit = found.limit;
        let flows: BTreeMap<Slot, u64> = found.slots.iter().copied().collect();
        let mut near = BTreeMap::new();
        for record in records {
            let Some(used) = flows
                .get(&record.slot)
                .filter(|used| is_near(**used, limit))
            else {
                continue;
            };
            let new = Near::of(record);
            if !self.near.contains_key(&record.slot) {
                tracing::warn!(
                    pod = new.name,
                    flows = used,
                    limit,
                    "a pod uses 80 % of its flow limit or more; beyond the limit idle connections may be forgotten: \
                     raise --max-flows-per-pod and --conntrack-cache-table-size"
                );
            }
            near.insert(record.slot, new);
        }
        for (slot, Near { name, .. }) in &self.near {
            if !near.contains_key(slot) {
                tracing::info!(
                    pod = name,
                    "a pod uses less than 80 % of its flow limit again"
                );
            }
        }
        self.near = near;
        self.found = found;
        self.measure();
    }

    fn measure(&self) {
        let FlowUse {
            limit,
            common: [used, room],
            slots,
        } = &self.found;
        let highest = slots.iter().map(|(_, flows)| *flows).max().unwrap_or(0);
        metrics::gauge!("podgate_pod_flows_highest_share").set(share(highest, *limit));
        let near = u32::try_from(self.near.len()).unwrap_or(u32::MAX);
        metrics::gauge!("podgate_pods_near_flow_limit").set(near);
        metrics::gauge!("podgate_flows_common_share").set(share(*used, *room));
    }

    /// Lines of `/readyz`. (The counts are left out: a line that changes all the time is no condition.)
    pub(super) fn warnings(&self) -> impl Iterator<Item = Warning> {
        let limit = self.found.limit;
        let pods = self.near.values().map(move |Near { name, pod }| {
            let text = format!(
                "pod {name} uses {NEAR} % or more of the {limit} flows that a pod may have; connections beyond may be forgotten \
                 while they are idle: raise --max-flows-per-pod and --conntrack-cache-table-size"
            );
            let about = pod.clone().map(|pod| (pod, Matter::FlowLimitNear));
            Warning { text, about }
        });
        let [used, room] = self.found.common;
        let all = is_near(used, room).then(|| {
            format!(
                "{NEAR} % or more of the {room} flows that pods may have beyond what each is sure of are in use; connections \
                 beyond may be forgotten while they are idle: raise --conntrack-cache-table-size"
            )
            .into()
        });
        pods.chain(all)
    }
}

#[cfg(test)]
mod tests {
    use podgate_datapath::netlink::Ifindex;
    use podgate_datapath::record::PodName;

    use super::*;
    use crate::fixture;

    fn record(slot: u32) -> Record {
        Record {
            pod: Some(PodName {
                namespace: "shop".into(),
                name: format!("web-{slot}"),
                uid: None,
            }),
            host_ifindex: Ifindex(10 + slot),
            ..fixture::record(slot)
        }
    }

    fn warnings(slots: &[(u32, u64)], common: u64) -> Vec<String> {
        let records = [1, 2].map(record);
        let mut crowded = Crowded::default();
        let slots = slots.iter().map(|(slot, flows)| (Slot(*slot), *flows));
        let found = FlowUse {
            limit: 1000,
            common: [common, 2000],
            slots: slots.collect(),
        };
        crowded.take(found, records.iter());
        crowded.warnings().map(|it| it.text).collect()
    }

    #[test]
    fn pods_that_come_near_to_their_limit_are_named() {
        assert_eq!(warnings(&[(1, 799), (2, 1)], 1599), [] as [String; 0]);
        let near = warnings(&[(1, 799), (2, 800)], 0);
        assert!(near[0].starts_with("pod shop/web-2 uses 80 %"), "{near:?}");
        assert_eq!(near.len(), 1);
        // What no attachment has any more is nobody's.
        assert_eq!(warnings(&[(3, 1000)], 0), [] as [String; 0]);
        let all = warnings(&[], 1600);
        assert!(all[0].contains("beyond what each is sure of"), "{all:?}");
    }

    #[test]
    fn a_limit_of_nothing_is_no_division_by_it() {
        assert!(share(3, 0).is_finite());
    }
}
