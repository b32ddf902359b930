//! Whose field it is, when the API server says that somebody else set it.
//!
//! We take fields back from people and from our own past; a controller that sets a field will set it again, so taking
//! it would be a fight: the object is refused, and the controller named.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::APPLIER_MANAGER;

/// One field that another manager owns, as the API server's 409 tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub manager: String,
    /// The other manager used server-side apply, and not an update or a patch.
    pub by_apply: bool,
    pub field: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A person at a keyboard, or fabrik under an earlier name.
    Person,
    Controller,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Force,
    /// The controllers that own fields of ours: `kube-controller-manager (.spec.replicas)`.
    Refuse(String),
}

/// Managers of well-known controllers whose names follow no pattern.
const CONTROLLERS: &[&str] = &[
    "cainjector",
    "cluster-autoscaler",
    "istiod",
    "k3s",
    "keda",
    "kubelet",
    "pilot-discovery",
    "rancher",
    "traefik",
    "vault",
];
/// Beginnings of controllers' names. `deploy@NODE` is k3s' own manifest folder.
const CONTROLLER_PREFIXES: &[&str] = &[
    "argocd",
    "cert-manager",
    "cilium",
    "deploy@",
    "flux",
    "gotk",
    "helm",
    "kluctl",
    "kube-",
];
const CONTROLLER_PARTS: &[&str] = &["autoscaler", "controller", "injector", "operator"];

/// Force only if every field in conflict is a person's.
pub fn verdict(conflicts: &[Conflict]) -> Verdict {
    let mut refused: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for conflict in conflicts.iter().filter(|c| c.owner() == Owner::Controller) {
        let fields = refused.entry(&conflict.manager).or_default();
        fields.insert(&conflict.field);
    }
    if refused.is_empty() && !conflicts.is_empty() {
        return Verdict::Force;
    }
    let name = |(manager, fields): (&str, BTreeSet<&str>)| {
        let fields: Vec<&str> = fields.into_iter().collect();
        format!("{manager} ({})", fields.join(", "))
    };
    let names: Vec<String> = refused.into_iter().map(name).collect();
    Verdict::Refuse(names.join("; "))
}

impl Conflict {
    /// Reads one cause of a 409: `conflict with "kubectl-edit" using apps/v1 at 2026-01-01T00:00:00Z`. A manager that
    /// used apply is printed without `using` (apimachinery, `managedfields/internal/conflict.go`).
    pub fn parse(message: &str, field: &str) -> Option<Self> {
        let rest = message.strip_prefix("conflict with \"")?;
        let (manager, rest) = rest.split_once('"')?;
        Some(Self {
            manager: manager.to_owned(),
            by_apply: !rest.contains(" using "),
            field: field.to_owned(),
        })
    }

    pub fn owner(&self) -> Owner {
        let name = self.manager.to_lowercase();
        if name == "before-first-apply"
            || is_named(&name, "kubectl")
            || is_named(&name, APPLIER_MANAGER)
        {
            Owner::Person
        } else if self.by_apply || is_controller(&name) {
            Owner::Controller
        } else {
            Owner::Person
        }
    }
}

/// `kubectl`, `kubectl-edit`, `kubectl_v1`, but not `kubectlers-operator`.
fn is_named(name: &str, whole: &str) -> bool {
    name.strip_prefix(whole)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_', '/', '.']))
}

fn is_controller(name: &str) -> bool {
    CONTROLLERS.contains(&name)
        || CONTROLLER_PREFIXES.iter().any(|p| name.starts_with(p))
        || CONTROLLER_PARTS.iter().any(|p| name.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(manager: &str, by_apply: bool) -> Conflict {
        Conflict {
            manager: manager.into(),
            by_apply,
            field: ".spec.replicas".into(),
        }
    }

    #[test]
    fn each_manager_is_a_person_or_a_controller() {
        let table = [
            ("kubectl", true, Owner::Person),
            ("kubectl-client-side-apply", false, Owner::Person),
            ("kubectl-edit", false, Owner::Person),
            ("kubectl-patch", false, Owner::Person),
            ("before-first-apply", false, Owner::Person),
            ("fabrik", false, Owner::Person),
            ("fabrik-alpha", true, Owner::Person),
            ("Mozilla", false, Owner::Person),
            ("k9s", false, Owner::Person),
            ("python-requests", false, Owner::Person),
            ("some-tool", true, Owner::Controller),
            ("kube-controller-manager", false, Owner::Controller),
            ("kustomize-controller", true, Owner::Controller),
            ("argocd-application-controller", false, Owner::Controller),
            ("argocd", false, Owner::Controller),
            ("flux-client-side-apply", false, Owner::Controller),
            ("helm", false, Owner::Controller),
            ("helm-controller", false, Owner::Controller),
            ("deploy@server-1", false, Owner::Controller),
            ("postgres-operator", false, Owner::Controller),
            ("Prometheus-Operator", false, Owner::Controller),
            ("vpa-autoscaler", false, Owner::Controller),
            ("kubelet", false, Owner::Controller),
            ("kubectlers-operator", false, Owner::Controller),
        ];
        for (manager, by_apply, owner) in table {
            assert_eq!(
                by(manager, by_apply).owner(),
                owner,
                "{manager}, apply: {by_apply}"
            );
        }
    }

    #[test]
    fn the_api_server_s_words_are_read() {
        let update = "conflict with \"kubectl-edit\" using apps/v1 at 2026-01-01T00:00:00Z";
        let parsed = Conflict::parse(update, ".spec.replicas").unwrap();
        assert_eq!(parsed, by("kubectl-edit", false));
        let scale =
            "conflict with \"kube-controller-manager\" with subresource \"scale\" using apps/v1";
        assert!(!Conflict::parse(scale, ".f").unwrap().by_apply);
        assert_eq!(
            Conflict::parse("conflict with \"x\"", ".spec.replicas").unwrap(),
            by("x", true)
        );
        assert_eq!(Conflict::parse("object was modified", ""), None);
    }

    #[test]
    fn one_controller_among_people_refuses_the_object_and_only_it_is_named() {
        let people = [by("kubectl-edit", false), by("Mozilla", false)];
        assert_eq!(verdict(&people), Verdict::Force);
        let mixed = [
            by("kubectl-edit", false),
            by("helm", false),
            by("helm", false),
        ];
        assert_eq!(
            verdict(&mixed),
            Verdict::Refuse("helm (.spec.replicas)".into())
        );
    }

    #[test]
    fn a_conflict_that_names_nobody_is_not_forced() {
        assert_eq!(verdict(&[]), Verdict::Refuse(String::new()));
    }
}
