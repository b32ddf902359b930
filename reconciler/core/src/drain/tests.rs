use std::collections::BTreeMap;

use super::*;
use crate::ledger::{Purpose, Reason};

const KEEP: DrainPolicy = DrainPolicy {
    empty_dir_data: Loss::Keep,
    unmanaged_pods: Loss::Keep,
};
const DISCARD: DrainPolicy = DrainPolicy {
    empty_dir_data: Loss::Discard,
    unmanaged_pods: Loss::Discard,
};

fn pod(kind: PodKind, managed: bool, empty_dir: bool) -> Pod {
    Pod {
        namespace: "web".to_owned(),
        name: "shop".to_owned(),
        uid: "pod-uid".parse().unwrap(),
        node: "workers-0".parse().unwrap(),
        kind,
        labels: BTreeMap::new(),
        ready: true,
        managed,
        empty_dir,
        terminating: false,
        ends: None,
        blocked: None,
    }
}

fn ticket(pool: &str) -> Ticket {
    Ticket {
        pool: pool.parse().unwrap(),
        node: "workers-0".parse().unwrap(),
        uid: "node-uid".parse().unwrap(),
        server: crate::id::ServerId(1),
        purpose: Purpose::Leave {
            reason: Reason::ScaleDown,
            retiring: None,
        },
        at: Timestamp::UNIX_EPOCH,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Stays,
    Evicted,
    Kept,
}

fn outcome(pod: &Pod, policy: DrainPolicy) -> Outcome {
    if stays(pod) {
        return Outcome::Stays;
    }
    let step = Left {
        pods: vec![pod],
        volumes: Vec::new(),
    }
    .drain(&ticket("workers"), policy);
    assert!(step.effects.is_empty() != step.holds.is_empty(), "{step:?}");
    if step.effects.is_empty() {
        Outcome::Kept
    } else {
        Outcome::Evicted
    }
}

/// kubectl 1.36, pkg/drain/filters.go: with `--ignore-daemonsets`, and with or without `--force` and
/// `--delete-emptydir-data`.
#[test]
fn each_pod_is_treated_as_kubectl_treats_it() {
    use Outcome::{Evicted, Kept, Stays};
    use PodKind::{DaemonSet, Finished, Mirror, Ordinary};
    for (kind, managed, empty_dir, kept, discarded) in [
        (Ordinary, true, false, Evicted, Evicted),
        (Ordinary, true, true, Kept, Evicted),
        (Ordinary, false, false, Kept, Evicted),
        (Ordinary, false, true, Kept, Evicted),
        (Finished, true, true, Evicted, Evicted),
        (Finished, false, true, Evicted, Evicted),
        (DaemonSet, true, true, Stays, Stays),
        (Mirror, true, true, Stays, Stays),
        (Mirror, false, true, Stays, Stays),
    ] {
        let pod = pod(kind, managed, empty_dir);
        assert_eq!(outcome(&pod, KEEP), kept, "{pod:?}");
        assert_eq!(outcome(&pod, DISCARD), discarded, "{pod:?}");
    }
}

#[test]
fn by_default_an_empty_dir_is_given_up_and_a_pod_without_a_controller_is_not() {
    let policy = DrainPolicy::default();
    assert_eq!(
        outcome(&pod(PodKind::Ordinary, true, true), policy),
        Outcome::Evicted
    );
    assert_eq!(
        outcome(&pod(PodKind::Ordinary, false, false), policy),
        Outcome::Kept
    );
}

#[test]
fn where_one_pod_is_kept_no_other_is_evicted_and_the_way_out_is_named() {
    let (kept, other) = (
        pod(PodKind::Ordinary, false, false),
        pod(PodKind::Ordinary, true, false),
    );
    let left = Left {
        pods: vec![&other, &kept],
        volumes: Vec::new(),
    };
    let step = left.drain(&ticket("workers"), KEEP);
    assert_eq!(step.effects, []);
    let told: Vec<String> = step.holds.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "node workers-0: pod web/shop is not evicted: no controller would bring it back. Delete it, or set \
          unmanaged-pods = \"discard\" in [pools.workers]; nothing on the node is evicted before"
        ]
    );
    let step = left.drain(&ticket("servers"), KEEP);
    assert!(
        step.holds[0].message.contains("Delete it; "),
        "servers are no pool of cluster.toml"
    );
    assert_eq!(left.drain(&ticket("workers"), DISCARD).effects.len(), 2);
}

#[test]
fn a_pod_that_is_ending_is_not_kept_any_more() {
    let mut ending = pod(PodKind::Ordinary, false, true);
    ending.terminating = true;
    let left = Left {
        pods: vec![&ending],
        volumes: Vec::new(),
    };
    assert_eq!(left.drain(&ticket("workers"), KEEP), Step::default());
    assert_eq!(left.words(KEEP), "1 pod is left");
}

/// The pods went, and their volume is attached for a while longer: a machine that goes down now keeps it from going
/// elsewhere for minutes.
#[test]
fn a_finished_pod_that_only_its_finalizers_keep_is_no_obstacle() {
    let mut over = pod(PodKind::Finished, true, false);
    assert!(!is_no_obstacle(&over), "it is evicted first");
    over.terminating = true;
    let mut observed = observed();
    observed
        .pods
        .insert("workers-0".parse().unwrap(), vec![over]);
    assert_eq!(Left::on(&node(true), &observed), None);
}

#[test]
fn a_node_is_empty_when_its_volumes_are_detached() {
    let volume = "pvc-1 (claim shop/data)".to_owned();
    let mut observed = observed();
    let node = node(true);
    observed.attached = [(node.name.clone(), vec![volume])].into();
    let left = Left::on(&node, &observed).unwrap();
    assert_eq!(
        left.words(KEEP),
        "volume pvc-1 (claim shop/data) is still attached to it"
    );
    let step = left.drain(&ticket("workers"), KEEP);
    let told: Vec<String> = step.holds.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["node workers-0: volume pvc-1 (claim shop/data) is still attached to it"]
    );

    let mut silent = self::node(false);
    assert_eq!(Left::on(&silent, &observed), None, "nobody unmounts there");
    silent.heard = Some(observed.at);
    assert!(
        Left::on(&silent, &observed).is_some(),
        "a moment ago it did"
    );
    (silent.heard, silent.lease_unread) = (None, true);
    assert!(Left::on(&silent, &observed).is_some(), "who knows");
    observed.attached.clear();
    assert_eq!(Left::on(&node, &observed), None);
    observed.pods.clear();
    assert_eq!(
        Left::on(&node, &observed),
        Some(Left::default()),
        "nobody has looked"
    );
}

fn node(ready: bool) -> Node {
    serde_json::from_value(serde_json::json!({
        "name": "workers-0", "uid": "node-uid", "provider_id": null, "control_plane": false, "ready": ready,
        "unschedulable": true, "cordoned_under": null, "deleting": false, "kubelet_version": "v1.36.3",
        "labels": {}, "our_labels": [],
    }))
    .unwrap()
}

fn observed() -> Observed {
    let ledger = crate::ledger::Ledger::new("abcdefgh01234567".parse().unwrap());
    serde_json::from_value(serde_json::json!({
        "at": "2026-11-21T12:00:00Z", "hetzner": crate::observed::Hetzner::default(), "nodes": {},
        "pods": {"workers-0": []}, "pinned": [], "tokens": [], "units": {}, "ledger": ledger, "paused": null,
    }))
    .unwrap()
}
