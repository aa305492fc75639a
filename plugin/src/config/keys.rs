// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which keys a configuration may have. A misspelled one would leave its default in force without a word; the CNI
//! specification lets a plugin refuse keys that it does not know.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Our own.
const OURS: [&str; 7] = [
    "enforcingMode",
    "waitMs",
    "onTimeout",
    "exemptNamespaces",
    "socket",
    "runDir",
    "bpffsDir",
];

/// Those that the specification gives a meaning, in a plugin's object or in that of the list, and that runtimes put in.
const OF_CNI: [&str; 14] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "capabilities",
    "runtimeConfig",
    "args",
    "ipMasq",
    "ipam",
    "dns",
    "prevResult",
];

/// How much of a value is shown.
const SHOWN: usize = 64;

/// Every key that nobody knows, with its value and the key that may have been meant.
pub(super) fn unknown(stdin: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    let keys: BTreeMap<String, &RawValue> = serde_json::from_slice(stdin)?;
    Ok(keys
        .iter()
        .filter(|(key, _)| !is_known(key))
        .map(|(key, value)| {
            let shown: String = value.get().chars().take(SHOWN).collect();
            format!("{key:?}: {shown}: podgate has no such key; {}", meant(key))
        })
        .collect())
}

/// A key with a dot begins with the domain of whoever defines it, as `cni.dev/valid-attachments` and
/// `io.kubernetes.cri.pod-annotations` do: none of ours has one.
fn is_known(key: &str) -> bool {
    OURS.contains(&key) || OF_CNI.contains(&key) || key.contains('.')
}

fn meant(key: &str) -> String {
    let distances = OURS.iter().map(|known| (distance(key, known), known));
    match distances.min() {
        Some((distance, known)) if distance <= known.len() / 3 => {
            format!("did you mean {known:?}?")
        }
        Some(_) | None => format!("it has {}", OURS.join(", ")),
    }
}

/// How many characters have to be put in, taken out or replaced to make one of the other, whatever their case.
fn distance(one: &str, other: &str) -> usize {
    let [one, other] = [one, other].map(str::to_lowercase);
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (above, a) in one.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (place, b) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_two_keys_is_that_of_their_letters() {
        for (one, other, away) in [
            ("onTimeout", "onTimeout", 0),
            ("OnTimeOut", "onTimeout", 0),
            ("onTimout", "onTimeout", 1),
            ("", "socket", 6),
            ("socket", "", 6),
            ("waitms ", "waitMs", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), away, "{one} {other}");
        }
    }

    #[test]
    fn the_key_that_may_be_meant_is_named_or_all_of_them() {
        for (key, says) in [
            ("onTimout", "did you mean \"onTimeout\"?"),
            ("enforcingmode", "did you mean \"enforcingMode\"?"),
            ("enforceMode", "did you mean \"enforcingMode\"?"),
            ("wait", "did you mean \"waitMs\"?"),
            ("exemptNamespace", "did you mean \"exemptNamespaces\"?"),
            ("bpfDir", "did you mean \"bpffsDir\"?"),
        ] {
            assert_eq!(meant(key), says, "{key}");
        }
        let all = meant("kubeconfig");
        assert!(OURS.iter().all(|key| all.contains(key)), "{all}");
    }
}
