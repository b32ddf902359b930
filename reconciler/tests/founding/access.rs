//! What RBAC answers when each identity asks about itself.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

/// Verb, `resource[/subresource][.group]`, namespace (empty for the whole cluster), name (empty for any).
type Question = (&'static str, &'static str, &'static str, &'static str);

pub async fn of_the_leader(client: &Client) {
    let may: &[Question] = &[
        ("list", "nodes", "", ""),
        ("watch", "nodes", "", ""),
        ("patch", "nodes", "", ""),
        ("delete", "nodes", "", ""),
        ("list", "pods", "", ""),
        ("create", "pods/eviction", "", ""),
        ("list", "persistentvolumes", "", ""),
        ("list", "daemonsets.apps", "", ""),
        ("list", "volumeattachments.storage.k8s.io", "", ""),
        ("list", "poddisruptionbudgets.policy", "", ""),
        ("create", "events", "default", ""),
        ("create", "events.events.k8s.io", "default", ""),
        ("patch", "fabrikclusters/status.fabrik.dev", "", ""),
        ("create", "fabriknodes.fabrik.dev", "", ""),
        ("update", "fabrikledgers.fabrik.dev", "", ""),
        ("list", "fabrikunits.fabrik.dev", "", ""),
        ("update", "leases.coordination.k8s.io", "fabrik-system", ""),
        ("get", "leases.coordination.k8s.io", "kube-node-lease", ""),
        ("patch", "configmaps", "fabrik-system", ""),
        (
            "create",
            "serviceaccounts/token",
            "fabrik-system",
            "fabrik-leader",
        ),
        ("list", "secrets", "kube-system", ""),
        ("create", "secrets", "kube-system", ""),
        ("delete", "secrets", "kube-system", ""),
    ];
    let may_not: &[Question] = &[
        ("get", "secrets", "default", ""),
        ("list", "secrets", "", ""),
        ("get", "secrets", "fabrik-system", ""),
        ("update", "secrets", "kube-system", ""),
        ("patch", "secrets", "kube-system", ""),
        ("list", "deployments.apps", "default", ""),
        ("create", "deployments.apps", "default", ""),
        ("create", "pods", "default", ""),
        ("delete", "pods", "default", ""),
        ("create", "pods/exec", "default", ""),
        ("create", "nodes", "", ""),
        ("get", "nodes/proxy", "", ""),
        ("patch", "nodes/status", "", ""),
        ("get", "configmaps", "kube-system", ""),
        ("update", "leases.coordination.k8s.io", "kube-system", ""),
        (
            "update",
            "leases.coordination.k8s.io",
            "kube-node-lease",
            "",
        ),
        (
            "create",
            "serviceaccounts/token",
            "fabrik-system",
            "fabrik-applier",
        ),
        (
            "create",
            "serviceaccounts/token",
            "fabrik-system",
            "default",
        ),
        (
            "create",
            "serviceaccounts/token",
            "kube-system",
            "fabrik-leader",
        ),
        ("bind", "clusterroles.rbac.authorization.k8s.io", "", ""),
        ("escalate", "clusterroles.rbac.authorization.k8s.io", "", ""),
        ("impersonate", "users", "", ""),
        (
            "patch",
            "customresourcedefinitions.apiextensions.k8s.io",
            "",
            "",
        ),
        (
            "delete",
            "validatingadmissionpolicies.admissionregistration.k8s.io",
            "",
            "",
        ),
    ];
    check(client, "the leader", may, may_not).await;
}

pub async fn of_the_applier(client: &Client) {
    let may: &[Question] = &[
        ("patch", "deployments.apps", "default", ""),
        (
            "patch",
            "customresourcedefinitions.apiextensions.k8s.io",
            "",
            "",
        ),
        ("delete", "secrets", "default", ""),
        (
            "create",
            "serviceaccounts/token",
            "fabrik-system",
            "fabrik-applier",
        ),
    ];
    check(client, "the applier", may, &[]).await;
}

pub async fn of_a_node(client: &Client) {
    let may: &[Question] = &[
        ("get", "fabriknodes.fabrik.dev", "", ""),
        ("watch", "fabriknodes.fabrik.dev", "", ""),
        ("patch", "fabriknodes/status.fabrik.dev", "", ""),
    ];
    let may_not: &[Question] = &[
        ("get", "fabrikledgers.fabrik.dev", "", "ledger"),
        ("list", "fabrikledgers.fabrik.dev", "", ""),
        ("get", "fabrikclusters.fabrik.dev", "", ""),
        ("get", "fabrikunits.fabrik.dev", "", ""),
        ("patch", "fabriknodes.fabrik.dev", "", ""),
        ("create", "fabriknodes.fabrik.dev", "", ""),
        (
            "create",
            "serviceaccounts/token",
            "fabrik-system",
            "fabrik-leader",
        ),
        ("get", "configmaps", "fabrik-system", ""),
    ];
    check(client, "a node", may, may_not).await;
}

async fn check(client: &Client, who: &str, may: &[Question], may_not: &[Question]) {
    let mut wrong = Vec::new();
    for (questions, wanted) in [(may, true), (may_not, false)] {
        for question in questions {
            if allowed(client, question).await != wanted {
                let must = if wanted { "must" } else { "must not" };
                wrong.push(format!("{who} {must} be allowed {question:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn allowed(client: &Client, (verb, what, namespace, name): &Question) -> bool {
    let (resource, group) = what.split_once('.').unwrap_or((what, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: text(verb),
                group: text(group),
                resource: text(resource),
                subresource: text(subresource),
                namespace: text(namespace),
                name: text(name),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    answer.status.unwrap().allowed
}
