// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each metric is, as a scrape says it. `docs/configuration.md` says more.

/// Names and help, in the order of the documents.
const HELP: [(&str, &str); 41] = [
    ("podgate_attachments", "Interfaces of pods by state."),
    (
        "podgate_pods_without_attachment",
        "Pods of this node that no policy applies to, because podgate was not in the chain that added them.",
    ),
    (
        "podgate_http_connections_total",
        "Connections to the health and metrics listeners by outcome.",
    ),
    (
        "podgate_packets_total",
        "Packets by direction, verdict and reason.",
    ),
    (
        "podgate_namespaces_suspended",
        "Namespaces that do not fit into this node's share: their pods are denied where their policies isolate.",
    ),
    (
        "podgate_guard",
        "1 while the nftables table of the family drops what a pod sends past podgate's programs.",
    ),
    (
        "podgate_guard_restored_total",
        "Times that the table was removed and put back.",
    ),
    (
        "podgate_unjudged_packets_total",
        "Packets past podgate's programs that the table dropped.",
    ),
    (
        "podgate_unexplained",
        "Interfaces of the node that lead into a pod and that no attachment names, or that were changed.",
    ),
    (
        "podgate_unexplained_changes_total",
        "Unexpected changes of host ends since the start.",
    ),
    ("podgate_retries_total", "Failures that are retried."),
    (
        "podgate_grace_period_late",
        "1 while a grace period of the kernel takes too long.",
    ),
    (
        "podgate_handoff_seconds",
        "Time the plugin waited for an answer.",
    ),
    ("podgate_flows", "Flows that are tracked."),
    (
        "podgate_flows_timed_out_total",
        "Flows that timed out or ended with their pod.",
    ),
    (
        "podgate_pod_flows_highest_share",
        "Highest share of --max-flows-per-pod in use by a pod; 1 is all.",
    ),
    (
        "podgate_pods_near_flow_limit",
        "Pods that use 80 % of --max-flows-per-pod or more.",
    ),
    (
        "podgate_flows_common_share",
        "Fraction in use of the flow table that pods share beyond their guarantees; 1 is all.",
    ),
    ("podgate_table_entries", "Entries of the kernel's maps."),
    (
        "podgate_table_capacity",
        "Entries that the kernel's maps have room for.",
    ),
    ("podgate_table_bytes", "Memory of the kernel's maps."),
    (
        "podgate_turn_seconds",
        "Time for which the engine works without answering anything else.",
    ),
    (
        "podgate_lock_seconds",
        "Time for which the node's lock is held.",
    ),
    (
        "podgate_lock_wait_seconds",
        "Time spent waiting for the node's lock.",
    ),
    (
        "podgate_compiles_total",
        "Pods whose policies were compiled.",
    ),
    (
        "podgate_transactions_total",
        "Transactions of map writes by kind.",
    ),
    (
        "podgate_addresses_evaluated_total",
        "Addresses that were evaluated for changes.",
    ),
    ("podgate_manifest_errors", "Errors in manifests."),
    (
        "podgate_api_credentials_unusable",
        "1 while what the kubeconfig or the ServiceAccount says cannot be used, and what it said before is.",
    ),
    (
        "podgate_api_requests_total",
        "Requests to the API server by answer.",
    ),
    (
        "podgate_api_received_bytes_total",
        "Bytes received from the API server.",
    ),
    ("podgate_watch_events_total", "Watch events by type."),
    ("podgate_watch_lists_total", "Lists that began, by kind."),
    ("podgate_watch_starts_total", "Watches that began."),
    (
        "podgate_watch_failures_total",
        "Lists and watches that broke or were refused.",
    ),
    (
        "podgate_source_age_seconds",
        "Seconds since the last event, bookmark or list of a kind.",
    ),
    (
        "podgate_events_total",
        "Attempts to write Events by outcome.",
    ),
    (
        "podgate_events_left_out",
        "Objects for whose Events there is no room.",
    ),
    (
        "podgate_questions_total",
        "Lookups of pods for ADDs by answer.",
    ),
    ("podgate_objects_wrong", "Objects with invalid fields."),
    (
        "podgate_networkpolicies_without_policyendpoints",
        "NetworkPolicies without PolicyEndpoints for ten seconds.",
    ),
];

/// Tells the process's recorder.
pub fn describe() {
    for (name, help) in HELP {
        // The recorder keeps one help for each name, whatever its kind.
        metrics::describe_gauge!(name, help);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documents_and_the_help_name_the_same_metrics() {
        let documents = include_str!("../../docs/configuration.md");
        let rows = documents
            .lines()
            .filter(|line| line.starts_with("| `podgate_"));
        let names = rows.flat_map(|row| {
            let cell = row.split('|').nth(1).unwrap_or_default();
            cell.split('`').skip(1).step_by(2)
        });
        let documented: BTreeSet<&str> = names
            .map(|name| name.split('{').next().unwrap_or_default())
            .collect();
        let helped: BTreeSet<&str> = HELP.iter().map(|(name, _)| *name).collect();
        assert_eq!(documented, helped);
    }
}
