//! What Kubernetes takes as a label and a taint of a node, and which of them are not the user's to set.

/// Prefixes within `kubernetes.io` that a kubelet may label its own Node with, and the keys that it may besides
/// (k8s.io/kubelet/pkg/apis/well_known_labels.go). With any other one the kubelet does not start.
const KUBELET_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const KUBELET_KEYS: [&str; 2] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const NAME_MAX_CHARS: usize = 63;
const PREFIX_MAX_CHARS: usize = 253;

/// A fault as problem (completes "`x` …") and remedy.
pub type Fault = (String, String);

pub fn node_label(key: &str, value: &str) -> Result<(), Fault> {
    qualified_name(key)?;
    not_reserved(key)?;
    if value.is_empty() || is_name(value) {
        Ok(())
    } else {
        Err((
            format!("has the value `{value}`, which Kubernetes does not take"),
            "use at most 63 letters, digits, `-`, `_` and `.`, with a letter or a digit at both ends".into(),
        ))
    }
}

/// `KEY=VALUE:EFFECT` or `KEY:EFFECT`. Returns key and effect: no two taints of a node share both.
pub fn node_taint(taint: &str) -> Result<(&str, &str), Fault> {
    let shape = || {
        (
            "is not a taint".to_owned(),
            "write `KEY=VALUE:EFFECT` or `KEY:EFFECT`, for example `dedicated=web:NoSchedule`"
                .to_owned(),
        )
    };
    let (rest, effect) = taint.rsplit_once(':').ok_or_else(shape)?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if !EFFECTS.contains(&effect) {
        return Err((
            format!("has the unknown effect `{effect}`"),
            "use `NoSchedule`, `PreferNoSchedule` or `NoExecute`".into(),
        ));
    }
    qualified_name(key)?;
    not_reserved(key)?;
    if !value.is_empty() && !is_name(value) {
        return Err(shape());
    }
    Ok((key, effect))
}

fn not_reserved(key: &str) -> Result<(), Fault> {
    let Some((prefix, _)) = key.split_once('/') else {
        return Ok(());
    };
    let within = |domain: &str| {
        prefix == domain
            || prefix
                .strip_suffix(domain)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    if within("fabrik.dev") {
        return Err((
            "belongs to fabrik, which sets it itself".into(),
            "choose a key of your own, without `fabrik.dev/`".into(),
        ));
    }
    let kubelets = KUBELET_KEYS.contains(&key) || KUBELET_PREFIXES.into_iter().any(within);
    if (within("kubernetes.io") || within("k8s.io")) && !kubelets {
        return Err((
            "is one that Kubernetes lets no node set on itself".into(),
            "choose a key of your own, or one of `node.kubernetes.io/`".into(),
        ));
    }
    Ok(())
}

pub fn qualified_name(key: &str) -> Result<(), Fault> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if is_name(name) && prefix.is_none_or(is_subdomain) {
        Ok(())
    } else {
        Err((
            format!("has the key `{key}`, which Kubernetes does not take"),
            "use `NAME` or `example.com/NAME`, the name with at most 63 letters, digits, `-`, `_` and `.`".into(),
        ))
    }
}

pub fn is_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=NAME_MAX_CHARS).contains(&name.len())
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name
            .chars()
            .all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
}

pub fn is_subdomain(prefix: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=PREFIX_MAX_CHARS).contains(&prefix.len())
        && prefix.split('.').all(|label| {
            label.starts_with(edge)
                && label.ends_with(edge)
                && label.chars().all(|c| edge(c) || c == '-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_bear_what_its_kubelet_may_set() {
        for good in [
            "tier",
            "example.com/tier",
            "node.kubernetes.io/tier",
            "topology.kubernetes.io/zone",
            "mykubernetes.io/x",
        ] {
            assert_eq!(node_label(good, "web"), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a b",
            "/x",
            "x/",
            "fabrik.dev/pool",
            "node-role.kubernetes.io/worker",
            "kubernetes.io/os",
            "a.k8s.io/b",
            "Up.example/x",
        ] {
            assert!(node_label(bad, "web").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_taint_has_a_key_and_a_known_effect() {
        assert_eq!(
            node_taint("dedicated=web:NoSchedule"),
            Ok(("dedicated", "NoSchedule"))
        );
        assert_eq!(node_taint("gpu:NoExecute"), Ok(("gpu", "NoExecute")));
        for bad in [
            "",
            "gpu",
            "gpu:Never",
            "=x:NoSchedule",
            "a=b c:NoSchedule",
            "fabrik.dev/x:NoSchedule",
        ] {
            assert!(node_taint(bad).is_err(), "{bad}");
        }
    }
}
