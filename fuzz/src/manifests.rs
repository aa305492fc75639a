// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a file of the directory of manifests may hold.

use std::path::Path;

use podgate_enforcer::manifests::Manifests;
use podgate_policy::model::ObjectName;

/// Another file, whose policy nothing may take away.
const OTHER: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: other, name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// A file is in force or wrong, and says the same whenever it is read.
pub fn run(data: &[u8]) {
    let mut manifests = Manifests::default();
    let (file, other) = (Path::new("file.yaml"), Path::new("other.yaml"));
    manifests.apply_file(other, OTHER.as_bytes());
    let before = manifests.snapshot();
    assert!(before.errors.is_empty(), "{:?}", before.errors);
    manifests.apply_file(file, data);
    let first = manifests.snapshot();
    let deny = ObjectName::new("other", "deny");
    assert_eq!(
        first.objects.policies.get(&deny),
        before.objects.policies.get(&deny)
    );
    manifests.apply_file(file, data);
    assert_eq!(manifests.snapshot(), first);
    manifests.remove_file(file);
    assert_eq!(manifests.snapshot(), before);
}
