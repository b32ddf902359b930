//! What a PodDisruptionBudget will say to an eviction. For people, beforehand: a drain asks the API server itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::NodeName;

/// A pod that no eviction moves as things are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Blocker {
    pub node: NodeName,
    pub namespace: String,
    pub pod: String,
    /// The PodDisruptionBudget's name, in the pod's namespace.
    pub budget: String,
    pub why: String,
}

/// A PodDisruptionBudget as its controller counted it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub disruptions_allowed: i32,
    pub healthy: i32,
    pub needed: i32,
    /// Its `unhealthyPodEvictionPolicy` is `AlwaysAllow`.
    pub lets_unhealthy_go: bool,
}

/// What of a pod counts for a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// It is ending, has ended or has not begun: no budget is asked.
    Nothing,
    Ready,
    Unready,
}

impl Budget {
    /// Why a pod that it matches would not be evicted now (kubernetes.io, "API-initiated Eviction" and "Unhealthy Pod
    /// Eviction Policy").
    pub fn refuses(&self, pod: Counts) -> Option<String> {
        let whole = self.needed > 0 && self.healthy >= self.needed;
        let asked = match pod {
            Counts::Nothing => false,
            Counts::Ready => true,
            Counts::Unready => !self.lets_unhealthy_go && !whole,
        };
        (asked && self.disruptions_allowed <= 0).then(|| {
            let Self {
                healthy, needed, ..
            } = self;
            format!("it needs {needed} healthy pods and has {healthy}")
        })
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            namespace,
            pod,
            budget,
            why,
        } = self;
        write!(
            f,
            "pod {namespace}/{pod} blocks node {node} because of PodDisruptionBudget {namespace}/{budget}: {why}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_refuses_what_the_api_server_will_refuse() {
        let budget = |allowed, healthy, needed, lets_unhealthy_go| Budget {
            disruptions_allowed: allowed,
            healthy,
            needed,
            lets_unhealthy_go,
        };
        let refuses = |budget: Budget, pod| budget.refuses(pod).is_some();
        assert!(refuses(budget(0, 5, 5, false), Counts::Ready));
        assert!(!refuses(budget(1, 6, 5, false), Counts::Ready));
        assert!(!refuses(budget(0, 5, 5, false), Counts::Nothing));
        // One that does not help the budget may go while the budget is whole, or always where it says so.
        assert!(!refuses(budget(0, 5, 5, false), Counts::Unready));
        assert!(refuses(budget(0, 4, 5, false), Counts::Unready));
        assert!(!refuses(budget(0, 4, 5, true), Counts::Unready));
        let why = budget(0, 5, 5, false).refuses(Counts::Ready).unwrap();
        assert_eq!(why, "it needs 5 healthy pods and has 5");
    }
}
