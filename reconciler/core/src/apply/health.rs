//! Whether a live object has become what its spec says, by the rules of kstatus
//! (sigs.k8s.io/cli-utils/pkg/kstatus, "Statuses").

use serde_json::Value;

use crate::desired::ObjectKey;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    Current,
    /// On its way, or waiting for something: what for.
    InProgress(String),
    /// Will not become current without help: why.
    Failed(String),
}

/// False for kinds that are what they are as soon as they are stored: their health need never be asked for.
pub fn has_health(object: &ObjectKey) -> bool {
    !matches!(
        (object.group.as_str(), object.kind.as_str()),
        (
            "",
            "ConfigMap" | "Secret" | "ServiceAccount" | "LimitRange" | "Endpoints" | "Event"
        ) | (
            "rbac.authorization.k8s.io"
                | "admissionregistration.k8s.io"
                | "storage.k8s.io"
                | "scheduling.k8s.io"
                | "node.k8s.io"
                | "discovery.k8s.io"
                | "coordination.k8s.io",
            _
        ) | ("networking.k8s.io", "NetworkPolicy" | "IngressClass")
    )
}

pub fn health(object: &Value) -> Health {
    match judge(object) {
        Ok(()) => Health::Current,
        Err(health) => health,
    }
}

/// `Ok` is current; anything else leaves early.
type Judgement = Result<(), Health>;

fn judge(object: &Value) -> Judgement {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return waits("is being deleted");
    }
    observed_generation(object)?;
    let group = text(&object["apiVersion"]);
    let group = group.split_once('/').map_or("", |(group, _)| group);
    match (group, text(&object["kind"])) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ReplicaSet") => replica_set(object),
        ("", "Pod") => pod(object),
        ("batch", "Job") => job(object),
        ("", "PersistentVolumeClaim") => volume_claim(object),
        ("", "Service") => service(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object),
        _ => generic(object),
    }
}

fn observed_generation(object: &Value) -> Judgement {
    let generation = &object["metadata"]["generation"];
    let observed = &object["status"]["observedGeneration"];
    match (generation.as_i64(), observed.as_i64()) {
        (Some(generation), Some(observed)) if observed < generation => waits(format!(
            "its controller has seen generation {observed} of {generation}"
        )),
        _ => Ok(()),
    }
}

fn deployment(object: &Value) -> Judgement {
    let status = &object["status"];
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    if let Some(progressing) = condition(object, "Progressing")
        && text(&progressing["reason"]) == "ProgressDeadlineExceeded"
    {
        return fails(words(progressing));
    }
    if let Some(failure) = condition(object, "ReplicaFailure").filter(|c| is(c, "True")) {
        return waits(words(failure));
    }
    seen_by_its_controller(object)?;
    let updated = count(status, "updatedReplicas");
    reaches(updated, wanted, "updated")?;
    let surplus = count(status, "replicas") - updated;
    if surplus > 0 {
        return waits(format!("{surplus} old pods are still there"));
    }
    reaches(count(status, "availableReplicas"), wanted, "available")?;
    reaches(count(status, "readyReplicas"), wanted, "ready")
}

fn stateful_set(object: &Value) -> Judgement {
    let (spec, status) = (&object["spec"], &object["status"]);
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    if text(&spec["updateStrategy"]["type"]) == "OnDelete" {
        return Ok(());
    }
    seen_by_its_controller(object)?;
    reaches(count(status, "replicas"), wanted, "created")?;
    reaches(count(status, "readyReplicas"), wanted, "ready")?;
    let partition = &spec["updateStrategy"]["rollingUpdate"]["partition"];
    let partition = partition.as_i64().unwrap_or(0);
    if partition > 0 {
        return reaches(
            count(status, "updatedReplicas"),
            wanted - partition,
            "updated",
        );
    }
    reaches(count(status, "currentReplicas"), wanted, "current")?;
    if status["currentRevision"] == status["updateRevision"] {
        Ok(())
    } else {
        waits("its pods don't all run the newest revision")
    }
}

fn daemon_set(object: &Value) -> Judgement {
    let status = &object["status"];
    if text(&object["spec"]["updateStrategy"]["type"]) == "OnDelete" {
        return Ok(());
    }
    seen_by_its_controller(object)?;
    let wanted = count(status, "desiredNumberScheduled");
    reaches(count(status, "currentNumberScheduled"), wanted, "scheduled")?;
    reaches(count(status, "updatedNumberScheduled"), wanted, "updated")?;
    reaches(count(status, "numberAvailable"), wanted, "available")?;
    reaches(count(status, "numberReady"), wanted, "ready")
}

fn replica_set(object: &Value) -> Judgement {
    let status = &object["status"];
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    if let Some(failure) = condition(object, "ReplicaFailure").filter(|c| is(c, "True")) {
        return waits(words(failure));
    }
    seen_by_its_controller(object)?;
    reaches(count(status, "fullyLabeledReplicas"), wanted, "labelled")?;
    reaches(count(status, "availableReplicas"), wanted, "available")?;
    reaches(count(status, "readyReplicas"), wanted, "ready")
}

fn pod(object: &Value) -> Judgement {
    let status = &object["status"];
    match text(&status["phase"]) {
        "Succeeded" => return Ok(()),
        "Failed" => return fails(or(text(&status["message"]), "its containers failed")),
        _ => {}
    }
    let containers = status["containerStatuses"].as_array().into_iter().flatten();
    for container in containers {
        let reason = text(&container["state"]["waiting"]["reason"]);
        if reason == "CrashLoopBackOff" {
            let name = text(&container["name"]);
            return fails(format!("container {name} crashes again and again"));
        }
    }
    if let Some(scheduled) = condition(object, "PodScheduled").filter(|c| is(c, "False")) {
        return waits(words(scheduled));
    }
    match condition(object, "Ready") {
        Some(ready) if is(ready, "True") => Ok(()),
        Some(ready) => waits(or(text(&ready["message"]), "is not ready")),
        None => waits("has not started"),
    }
}

/// Current once it is complete, so that what comes after a migration can wait for it.
fn job(object: &Value) -> Judgement {
    if let Some(failed) = condition(object, "Failed").filter(|c| is(c, "True")) {
        return fails(words(failed));
    }
    if condition(object, "Complete").is_some_and(|c| is(c, "True")) {
        return Ok(());
    }
    if object["spec"]["suspend"] == true {
        return waits("is suspended");
    }
    let status = &object["status"];
    let succeeded = count(status, "succeeded");
    let active = count(status, "active");
    waits(format!("{active} pods at work, {succeeded} done"))
}

fn volume_claim(object: &Value) -> Judgement {
    match text(&object["status"]["phase"]) {
        "Bound" => Ok(()),
        "Lost" => fails("its volume is lost"),
        _ => waits("is not bound to a volume"),
    }
}

fn service(object: &Value) -> Judgement {
    if text(&object["spec"]["type"]) != "LoadBalancer" {
        return generic(object);
    }
    let addresses = object["status"]["loadBalancer"]["ingress"].as_array();
    if addresses.is_some_and(|list| !list.is_empty()) {
        Ok(())
    } else {
        waits("its load balancer has no address yet")
    }
}

fn definition(object: &Value) -> Judgement {
    if let Some(names) = condition(object, "NamesAccepted").filter(|c| is(c, "False")) {
        return fails(words(names));
    }
    match condition(object, "Established") {
        Some(c) if is(c, "True") => Ok(()),
        Some(c) if text(&c["reason"]) != "Installing" => fails(words(c)),
        _ => waits("is not established yet"),
    }
}

/// Any other kind: by the conditions that kstatus knows.
fn generic(object: &Value) -> Judgement {
    if let Some(stalled) = condition(object, "Stalled").filter(|c| is(c, "True")) {
        return fails(words(stalled));
    }
    if let Some(busy) = condition(object, "Reconciling").filter(|c| is(c, "True")) {
        return waits(words(busy));
    }
    match condition(object, "Ready") {
        Some(ready) if !is(ready, "True") => waits(words(ready)),
        _ => Ok(()),
    }
}

/// A workload whose controller has not written a status is not current: the counts would all be the defaults.
fn seen_by_its_controller(object: &Value) -> Judgement {
    if object["status"]["observedGeneration"].is_null() {
        return waits("its controller has not seen it yet");
    }
    Ok(())
}

fn reaches(count: i64, wanted: i64, what: &str) -> Judgement {
    if count < wanted {
        return waits(format!("{count} of {wanted} pods {what}"));
    }
    Ok(())
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| text(&c["type"]) == kind)
}

fn is(condition: &Value, status: &str) -> bool {
    text(&condition["status"]) == status
}

fn words(condition: &Value) -> String {
    let (reason, message) = (text(&condition["reason"]), text(&condition["message"]));
    match (reason, message) {
        ("", "") => {
            let (kind, status) = (text(&condition["type"]), text(&condition["status"]));
            format!("{kind} is {status}")
        }
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn count(status: &Value, field: &str) -> i64 {
    status[field].as_i64().unwrap_or(0)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn waits(why: impl Into<String>) -> Judgement {
    Err(Health::InProgress(why.into()))
}

fn fails(why: impl Into<String>) -> Judgement {
    Err(Health::Failed(why.into()))
}

#[cfg(test)]
mod tests;
