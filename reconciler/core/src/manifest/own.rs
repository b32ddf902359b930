//! What fabrik itself is made of in a cluster. No repository may hold it: what leaves a repository is pruned, and with it
//! would go the identities and the guards of whoever prunes.

use crate::desired::ObjectKey;
use crate::names::NAMESPACE;

const GROUP: &str = "fabrik.dev";
/// What founding makes outside of fabrik's namespace is called so.
const PREFIX: &str = "fabrik-";
const FOUND: &str = "remove it from the repository: `fabrik found` makes what belongs to fabrik";

/// Why an object may not be in a repository, and what to do; `None` if it may.
pub fn objection(key: &ObjectKey) -> Option<(&'static str, &'static str)> {
    let ObjectKey {
        group,
        kind,
        namespace,
        name,
    } = key;
    match (group.as_str(), kind.as_str(), namespace.as_str()) {
        (group, _, _) if is_own_group(group) => Some((
            "is of the group `fabrik.dev`, which fabrik alone writes",
            "remove it from the repository",
        )),
        ("apiextensions.k8s.io", "CustomResourceDefinition", _) if is_own_group(name) => Some((
            "defines a kind of the group `fabrik.dev`, which fabrik alone does",
            FOUND,
        )),
        ("", "Namespace", _) if name == NAMESPACE => {
            Some(("is the namespace that fabrik itself lives in", FOUND))
        }
        (_, _, NAMESPACE) => Some((
            "is in `fabrik-system`, the namespace that fabrik itself lives in",
            "put it in another namespace, or remove it: `fabrik found` makes what belongs there",
        )),
        ("rbac.authorization.k8s.io", _, "" | "kube-system")
        | ("admissionregistration.k8s.io", _, "")
            if name.starts_with(PREFIX) =>
        {
            Some((
                "is called as fabrik's own identities and guards are",
                "call it otherwise, or remove it: `fabrik found` makes what belongs to fabrik",
            ))
        }
        _ => None,
    }
}

/// `fabrik.dev`, and what ends with `.fabrik.dev`.
fn is_own_group(name: &str) -> bool {
    name.strip_suffix(GROUP)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
