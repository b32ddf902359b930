use serde_json::json;

use super::*;

#[allow(
    clippy::needless_pass_by_value,
    reason = "the tables below read better without references"
)]
fn live(api_version: &str, kind: &str, spec: Value, status: Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "generation": 2},
           "spec": spec, "status": status})
}

fn in_progress(why: &str) -> Health {
    Health::InProgress(why.into())
}

fn failed(why: &str) -> Health {
    Health::Failed(why.into())
}

fn check(table: impl IntoIterator<Item = (Value, Health)>) {
    for (object, expected) in table {
        assert_eq!(health(&object), expected, "{object}");
    }
}

#[test]
fn a_deployment_is_current_when_all_of_its_new_pods_are_there_and_no_old_one() {
    let with = |status: Value| live("apps/v1", "Deployment", json!({"replicas": 2}), status);
    check([
        (
            with(Value::Null),
            in_progress("its controller has not seen it yet"),
        ),
        (
            with(json!({"observedGeneration": 1})),
            in_progress("its controller has seen generation 1 of 2"),
        ),
        (
            with(json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1})),
            in_progress("1 of 2 pods updated"),
        ),
        (
            with(json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2})),
            in_progress("1 old pods are still there"),
        ),
        (
            with(
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}),
            ),
            in_progress("1 of 2 pods available"),
        ),
        (
            with(
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2,
                "availableReplicas": 2, "readyReplicas": 2}),
            ),
            Health::Current,
        ),
        (
            with(json!({"observedGeneration": 2, "conditions": [
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too slow"}]})),
            failed("ProgressDeadlineExceeded: too slow"),
        ),
        (
            with(json!({"observedGeneration": 2, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]})),
            in_progress("FailedCreate: quota"),
        ),
    ]);
}

#[test]
fn the_other_workloads_count_their_pods_too() {
    let set = |spec: Value, status: Value| live("apps/v1", "StatefulSet", spec, status);
    let daemons = |status: Value| live("apps/v1", "DaemonSet", json!({}), status);
    let replicas = |status: Value| live("apps/v1", "ReplicaSet", json!({"replicas": 1}), status);
    let full = json!({"observedGeneration": 2, "replicas": 1, "readyReplicas": 1, "currentReplicas": 1,
        "currentRevision": "a", "updateRevision": "a"});
    let mut rolling = full.clone();
    rolling["updateRevision"] = json!("b");
    check([
        (set(json!({"replicas": 1}), full), Health::Current),
        (
            set(json!({"replicas": 1}), rolling),
            in_progress("its pods don't all run the newest revision"),
        ),
        (
            set(
                json!({"replicas": 3}),
                json!({"observedGeneration": 2, "replicas": 3, "readyReplicas": 1}),
            ),
            in_progress("1 of 3 pods ready"),
        ),
        (
            set(
                json!({"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}}),
                json!({"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 1}),
            ),
            Health::Current,
        ),
        (
            set(json!({"updateStrategy": {"type": "OnDelete"}}), json!({})),
            Health::Current,
        ),
        (
            daemons(
                json!({"observedGeneration": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
                "updatedNumberScheduled": 2, "numberAvailable": 1}),
            ),
            in_progress("1 of 2 pods available"),
        ),
        (
            daemons(json!({"observedGeneration": 2, "desiredNumberScheduled": 0})),
            Health::Current,
        ),
        (
            replicas(
                json!({"observedGeneration": 2, "fullyLabeledReplicas": 1, "availableReplicas": 1}),
            ),
            in_progress("0 of 1 pods ready"),
        ),
    ]);
}

#[test]
fn pods_jobs_claims_balancers_and_definitions_follow_their_own_rules() {
    let status = |api, kind, status| live(api, kind, json!({}), status);
    let condition = |kind: &str, value: &str, reason: &str, message: &str| json!({"conditions": [{"type": kind, "status": value, "reason": reason, "message": message}]});
    let crd = |s| status("apiextensions.k8s.io/v1", "CustomResourceDefinition", s);
    let balancer = |s| live("v1", "Service", json!({"type": "LoadBalancer"}), s);
    check([
        (
            status("v1", "Pod", json!({"phase": "Succeeded"})),
            Health::Current,
        ),
        (
            status("v1", "Pod", json!({"phase": "Failed"})),
            failed("its containers failed"),
        ),
        (
            status("v1", "Pod", condition("Ready", "True", "", "")),
            Health::Current,
        ),
        (
            status("v1", "Pod", json!({})),
            in_progress("has not started"),
        ),
        (
            status(
                "v1",
                "Pod",
                condition("PodScheduled", "False", "Unschedulable", "no node"),
            ),
            in_progress("Unschedulable: no node"),
        ),
        (
            status(
                "v1",
                "Pod",
                json!({"phase": "Running", "containerStatuses": [
                {"name": "app", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            ),
            failed("container app crashes again and again"),
        ),
        (
            status("batch/v1", "Job", condition("Complete", "True", "", "")),
            Health::Current,
        ),
        (
            status(
                "batch/v1",
                "Job",
                condition("Failed", "True", "BackoffLimitExceeded", ""),
            ),
            failed("BackoffLimitExceeded"),
        ),
        (
            status("batch/v1", "Job", json!({"active": 1})),
            in_progress("1 pods at work, 0 done"),
        ),
        (
            status("v1", "PersistentVolumeClaim", json!({"phase": "Bound"})),
            Health::Current,
        ),
        (
            status("v1", "PersistentVolumeClaim", json!({"phase": "Lost"})),
            failed("its volume is lost"),
        ),
        (
            status("v1", "PersistentVolumeClaim", json!({"phase": "Pending"})),
            in_progress("is not bound to a volume"),
        ),
        (
            status("v1", "Service", json!({"loadBalancer": {}})),
            Health::Current,
        ),
        (
            balancer(json!({"loadBalancer": {}})),
            in_progress("its load balancer has no address yet"),
        ),
        (
            balancer(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})),
            Health::Current,
        ),
        (crd(json!({})), in_progress("is not established yet")),
        (
            crd(condition("Established", "True", "", "")),
            Health::Current,
        ),
        (
            crd(condition("NamesAccepted", "False", "Taken", "by b")),
            failed("Taken: by b"),
        ),
    ]);
}

#[test]
fn any_other_kind_is_judged_by_its_conditions() {
    let with = |kind: &str, value: &str| {
        let conditions = json!({"conditions": [{"type": kind, "status": value, "reason": "Why", "message": "what"}]});
        live("example.org/v1", "Database", json!({}), conditions)
    };
    let mut leaving = with("Ready", "True");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    check([
        (
            live("example.org/v1", "Database", json!({}), Value::Null),
            Health::Current,
        ),
        (with("Ready", "True"), Health::Current),
        (with("Ready", "False"), in_progress("Why: what")),
        (with("Ready", "Unknown"), in_progress("Why: what")),
        (with("Reconciling", "True"), in_progress("Why: what")),
        (with("Reconciling", "False"), Health::Current),
        (with("Stalled", "True"), failed("Why: what")),
        (leaving, in_progress("is being deleted")),
        (json!({}), Health::Current),
        (json!("nonsense"), Health::Current),
        (
            json!({"kind": 3, "status": {"conditions": "x"}}),
            Health::Current,
        ),
    ]);
}

#[test]
fn a_kind_without_a_status_is_never_asked() {
    let key = |k: &str| ObjectKey::try_from(k.to_owned()).unwrap();
    assert!(!has_health(&key("ConfigMap/web/a")));
    assert!(!has_health(&key(
        "ClusterRole.rbac.authorization.k8s.io//a"
    )));
    assert!(has_health(&key("Deployment.apps/web/a")));
    assert!(has_health(&key("ConfigMap.example.org/web/a")));
}
