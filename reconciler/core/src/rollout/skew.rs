//! What the k3s ladder says of the commit's systems as a whole (S4): they are known only once it is in force, so what
//! would have refused it holds it.

use std::collections::BTreeMap;

use super::Rollout;
use super::grant::rung;
use crate::hold::{Hold, HoldReason};
use crate::id::PoolName;
use crate::ladder::{self, Climb, Verdict};
use crate::spec::{K3sRelease, K3sVersion};

/// Why the systems' versions of k3s can't all be reached from here, if they can't.
pub(super) fn holds(rollout: &Rollout<'_>) -> Vec<Hold> {
    let targets = &rollout.desired.targets;
    let Some(servers) = targets.get(&PoolName::servers()) else {
        return Vec::new();
    };
    let to = servers.system.kubernetes;
    let agents = targets
        .iter()
        .filter(|(pool, _)| **pool != PoolName::servers());
    let pools: BTreeMap<PoolName, K3sVersion> = agents
        .map(|(pool, target)| (pool.clone(), target.system.kubernetes))
        .collect();
    let members = rollout.ledger().members.values();
    let nodes: Vec<_> = members.filter_map(|m| rung(rollout, m)).collect();
    let climb = Climb {
        from: None,
        to,
        pools: &pools,
        nodes: &nodes,
    };
    let sentences = match ladder::judge(&climb) {
        Verdict::Allowed => Vec::new(),
        Verdict::Held(sentences) => sentences,
        Verdict::Refused(refusals) => refusals
            .into_iter()
            .map(|r| format!("version {}: {}", r.problem, r.remedy))
            .collect(),
    };
    let stated: Option<K3sRelease> = rollout.desired.spec.kubernetes.version.parse().ok();
    let other = stated.filter(|stated| !stated.is_met_by(to)).map(|stated| {
        format!(
            "cluster.toml says {stated}, and the servers' system brings {to}: let both say the same"
        )
    });
    let sentences = sentences.into_iter().chain(other);
    sentences
        .map(|message| Hold {
            about: "kubernetes".to_owned(),
            reason: HoldReason::VersionSkew,
            message,
        })
        .collect()
}
