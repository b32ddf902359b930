//! Which pods no eviction would move now, beforehand: of the PodDisruptionBudgets that allow nothing.

use fabrik_core::disruption::{Blocker, Budget, Counts};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::Selector;
use kube::{Api, Client, ResourceExt as _};

use super::NodeError;
use super::observe::list;

/// So many budgets are looked into, each of which costs a request, and so many pods are told.
const MAX_BUDGETS: usize = 50;
const MAX_BLOCKERS: usize = 200;

/// Reads the budgets that are used up, and the pods that they match.
pub async fn observe_blockers(client: &Client) -> Result<Vec<Blocker>, NodeError> {
    let all = ListParams::default();
    let budgets =
        list::<PodDisruptionBudget>(Api::all(client.clone()), all, "poddisruptionbudgets");
    let budgets = budgets.await?.into_iter();
    let spent = budgets.filter_map(|b| Some((counted(&b)?, b)));
    let mut blockers = Vec::new();
    for (budget, object) in spent.take(MAX_BUDGETS) {
        let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
        // Without one it matches nothing; an empty one matches all.
        let selector = object.spec.and_then(|s| s.selector);
        let Some(Ok(selector)) = selector.map(Selector::try_from) else {
            continue;
        };
        let params = ListParams::default().labels_from(&selector);
        let pods = list::<Pod>(Api::namespaced(client.clone(), &namespace), params, "pods");
        let blocks = |pod: Pod| {
            Some(Blocker {
                why: budget.refuses(counts(&pod))?,
                node: pod.spec.as_ref()?.node_name.as_deref()?.parse().ok()?,
                pod: pod.name_any(),
                namespace: namespace.clone(),
                budget: name.clone(),
            })
        };
        blockers.extend(pods.await?.into_iter().filter_map(blocks));
    }
    blockers.sort();
    blockers.truncate(MAX_BLOCKERS);
    Ok(blockers)
}

/// `None` where it lets somebody go, or was not counted yet.
fn counted(object: &PodDisruptionBudget) -> Option<Budget> {
    let status = object.status.as_ref()?;
    let policy = object
        .spec
        .as_ref()?
        .unhealthy_pod_eviction_policy
        .as_deref();
    let budget = Budget {
        disruptions_allowed: status.disruptions_allowed?,
        healthy: status.current_healthy?,
        needed: status.desired_healthy?,
        lets_unhealthy_go: policy == Some("AlwaysAllow"),
    };
    (budget.disruptions_allowed <= 0).then_some(budget)
}

fn counts(pod: &Pod) -> Counts {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref());
    let conditions = status
        .into_iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let mut ready = conditions.filter(|c| c.type_ == "Ready");
    if pod.metadata.deletion_timestamp.is_some() || phase != Some("Running") {
        Counts::Nothing
    } else if ready.any(|c| c.status == "True") {
        Counts::Ready
    } else {
        Counts::Unready
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_and_its_pods_are_read_as_the_api_server_counts_them() {
        let budget = |allowed: i32, policy: &str| {
            let object = json!({"metadata": {"name": "shop"}, "spec": {"unhealthyPodEvictionPolicy": policy},
                "status": {"disruptionsAllowed": allowed, "currentHealthy": 5, "desiredHealthy": 5, "expectedPods": 5}});
            counted(&serde_json::from_value(object).unwrap())
        };
        assert_eq!(budget(1, "AlwaysAllow"), None);
        assert!(budget(0, "AlwaysAllow").unwrap().lets_unhealthy_go);
        assert!(!budget(0, "IfHealthyBudget").unwrap().lets_unhealthy_go);
        let pod = |phase: &str, ready: &str| {
            let status =
                json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]});
            counts(&serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap())
        };
        assert_eq!(pod("Running", "True"), Counts::Ready);
        assert_eq!(pod("Running", "False"), Counts::Unready);
        assert_eq!(pod("Succeeded", "False"), Counts::Nothing);
    }
}
