//! Evictions through the API server's own PodDisruptionBudget rules, by a client that repeats nothing on its own: what
//! is refused is told at once, with the budget's name.

use std::collections::BTreeMap;

use fabrik_core::id::Uid;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, EvictParams, ListParams, Preconditions};
use kube::core::response::{Status, StatusCause};
use kube::{Api, Client};

use super::NodeError;

/// How an eviction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// Accepted: the pod is ending.
    Accepted,
    /// It is not there any more, or another pod of its name is.
    Gone,
    /// A budget stands in the way: which one, and what it says.
    Blocked(String),
}

/// Asks for the eviction of the pod with this UID.
pub async fn evict(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &Uid,
) -> Result<Eviction, NodeError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = EvictParams {
        delete_options: Some(only(uid)),
        ..EvictParams::default()
    };
    match api.evict(name, &params).await {
        Ok(_) => Ok(Eviction::Accepted),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
            Ok(Eviction::Gone)
        }
        Err(kube::Error::Api(status)) if is_a_budget_s(&status) => {
            let causes = status
                .details
                .iter()
                .flat_map(|d| &d.causes)
                .map(|c| c.message.as_str());
            let said: Vec<&str> = causes.filter(|c| !c.is_empty()).collect();
            let said = if said.is_empty() {
                status.message.clone()
            } else {
                said.join("; ")
            };
            Ok(Eviction::Blocked(
                name_the_budget(client, namespace, &api, name, &said).await,
            ))
        }
        Err(source) => {
            let object = format!("Pod {namespace}/{name}");
            Err(NodeError::Refused {
                verb: "evict",
                object,
                source: Box::new(source),
            })
        }
    }
}

/// Deletes the pod with this UID, whatever its budget says. One that is gone, or another one of its name, is left alone.
pub async fn delete_pod(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: &Uid,
) -> Result<(), NodeError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match api.delete(name, &only(uid)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(NodeError::Refused {
            verb: "delete",
            object: format!("Pod {namespace}/{name}"),
            source: Box::new(source),
        }),
    }
}

fn only(uid: &Uid) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_string()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

/// Whether a budget refuses: an API server that is busy says 429 too, and one that has not counted the budget yet names it.
/// A pod that two budgets match gets a 500 that says so (kubernetes.io, "API-initiated Eviction").
fn is_a_budget_s(refusal: &Status) -> bool {
    let mut causes = refusal.details.iter().flat_map(|d| &d.causes);
    let budget = |c: &StatusCause| {
        c.reason == "DisruptionBudget" && !c.message.contains("is still being processed")
    };
    refusal.code == 429 && causes.any(budget)
        || refusal
            .message
            .contains("more than one PodDisruptionBudget")
}

/// The API server's words name the budget in most versions, and not its namespace: the budgets that match the pod and
/// allow nothing are named in front.
async fn name_the_budget(
    client: &Client,
    namespace: &str,
    pods: &Api<Pod>,
    pod: &str,
    said: &str,
) -> String {
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), namespace);
    let (Ok(pod), Ok(budgets)) = (
        pods.get(pod).await,
        budgets.list(&ListParams::default()).await,
    ) else {
        return said.to_owned();
    };
    let labels = pod.metadata.labels.unwrap_or_default();
    let names: Vec<String> = budgets
        .items
        .iter()
        .filter(|b| {
            b.status
                .as_ref()
                .is_none_or(|s| s.disruptions_allowed.unwrap_or(0) == 0)
        })
        .filter(|b| {
            b.spec
                .as_ref()
                .and_then(|s| s.selector.as_ref())
                .is_some_and(|s| matches(s, &labels))
        })
        .filter_map(|b| {
            b.metadata
                .name
                .as_ref()
                .map(|name| format!("PodDisruptionBudget {namespace}/{name}"))
        })
        .collect();
    if names.is_empty() {
        said.to_owned()
    } else {
        format!("{}: {said}", names.join(", "))
    }
}

/// Whether a label selector selects these labels (kubernetes.io, "Labels and Selectors").
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed = |v: &String| {
                    requirement
                        .values
                        .iter()
                        .flatten()
                        .any(|listed| listed == v)
                };
                match requirement.operator.as_str() {
                    "In" => value.is_some_and(listed),
                    "NotIn" => !value.is_some_and(listed),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_budget_s_refusal_is_one() {
        let refused = |code: u16, message: &str, causes: serde_json::Value| {
            let status = json!({"status": "Failure", "code": code, "message": message, "reason": "",
                "details": {"causes": causes}});
            is_a_budget_s(&serde_json::from_value(status).unwrap())
        };
        let cause = |message: &str| json!([{"reason": "DisruptionBudget", "message": message}]);
        let violates = "Cannot evict pod as it would violate the pod's disruption budget.";
        let needs = cause("The disruption budget shop needs 5 healthy pods and has 5 currently");
        assert!(refused(429, violates, needs));
        let early = cause("The disruption budget shop is still being processed by the server.");
        assert!(!refused(429, violates, early));
        assert!(!refused(
            429,
            "too many requests, please try again later",
            json!([])
        ));
        let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        assert!(refused(500, two, json!([])));
    }

    #[test]
    fn a_selector_selects_what_kubernetes_says_it_does() {
        let labels = BTreeMap::from([("app".to_owned(), "shop".to_owned())]);
        let selects = |s: serde_json::Value| matches(&serde_json::from_value(s).unwrap(), &labels);
        assert!(selects(json!({})));
        assert!(selects(json!({"matchLabels": {"app": "shop"}})));
        assert!(!selects(
            json!({"matchLabels": {"app": "shop", "tier": "web"}})
        ));
        assert!(selects(
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["shop", "x"]}]})
        ));
        assert!(!selects(
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["shop"]}]})
        ));
        assert!(selects(
            json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]})
        ));
        assert!(!selects(
            json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]})
        ));
    }
}
