//! What a published observation keeps, leaves out and refuses.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

/// Everything that may be published. Who adds a field to what is observed decides here, too, that anybody who
/// reaches `/observed` may read it.
const PUBLIC_FIELDS: &[&str] = &[
    "action",
    "activity",
    "admitted",
    "aim",
    "alarms",
    "asked",
    "at",
    "attached",
    "blocked",
    "blockers",
    "boot",
    "budget",
    "cancelled",
    "cluster",
    "commit",
    "control_plane",
    "cordoned_under",
    "count",
    "created",
    "cut_off",
    "datastore",
    "default",
    "deleting",
    "denied",
    "empty_dir",
    "ends",
    "etcd",
    "fabrikVersion",
    "firewall",
    "foundation",
    "from",
    "gone",
    "hash",
    "healthy",
    "heard",
    "hetzner",
    "history",
    "id",
    "inForce",
    "intent",
    "intents",
    "kind",
    "kubelet_version",
    "kubernetes",
    "labels",
    "lag",
    "lapses",
    "leader",
    "learner",
    "ledger",
    "location",
    "managed",
    "meanSecs",
    "members",
    "message",
    "minor",
    "missing",
    "name",
    "namespace",
    "needs",
    "network",
    "networkRange",
    "next_intent",
    "nextIntent",
    "nextTicket",
    "node",
    "nodes",
    "notAfter",
    "number",
    "observed",
    "order",
    "our_labels",
    "ours",
    "pace",
    "paused",
    "phase",
    "pinned",
    "placement_groups",
    "pod",
    "pods",
    "pool",
    "port",
    "power",
    "protocol",
    "provider_id",
    "public_key",
    "publishedAt",
    "purpose",
    "ready",
    "ready_pods",
    "reason",
    "released",
    "report",
    "resting",
    "role",
    "rules",
    "running",
    "says",
    "schema",
    "seconds",
    "sequence",
    "server",
    "server_type",
    "servers",
    "services",
    "since",
    "snapshots",
    "source_ips",
    "ssh_keys",
    "staged",
    "startedMinor",
    "steps",
    "subject",
    "system",
    "systems",
    "taken",
    "terminating",
    "ticket",
    "tickets",
    "tokens",
    "truncated",
    "uid",
    "unheard",
    "units",
    "unreadyDaemons",
    "unschedulable",
    "until",
    "well",
    "why",
];

#[test]
fn only_fields_that_were_judged_harmless_are_published() {
    let document = Document::new(observed(3), "2026-11-21T12:00:00Z".parse().unwrap());
    let mut fields = BTreeSet::new();
    collect_fields(&serde_json::to_value(&document).unwrap(), "", &mut fields);
    let unknown: Vec<_> = fields
        .iter()
        .filter(|f| !PUBLIC_FIELDS.contains(&f.as_str()))
        .collect();
    assert!(unknown.is_empty(), "not known to be harmless: {unknown:?}");
    assert!(
        fields.contains("labels") && fields.contains("intents"),
        "{fields:?}"
    );
}

#[test]
fn what_is_published_reads_back_packed_and_plain() {
    let document = Document::new(observed(3), "2026-11-21T12:00:00Z".parse().unwrap());
    assert_eq!(
        document.in_force.as_ref().map(CommitId::short),
        Some("01234567")
    );
    let packed = document.clone().publish().unwrap();
    assert_eq!(Document::read(&packed).unwrap(), document);
    let plain = serde_json::to_vec(&document).unwrap();
    assert_eq!(Document::read(&plain).unwrap(), document);
}

#[test]
fn too_much_leaves_out_the_history_then_digests_then_inventories() {
    let document = Document::new(observed(3_000), "2026-11-21T12:00:00Z".parse().unwrap());
    let whole = document.pack().unwrap().len();
    let with = |bytes: usize| {
        document
            .clone()
            .publish_within(bytes)
            .map(|b| Document::read(&b).unwrap())
    };

    assert_eq!(with(whole).unwrap().truncated, []);
    let first = with(whole - 1).unwrap();
    assert_eq!(first.truncated, [Truncation::History]);
    let second = with(first.pack().unwrap().len() - 1).unwrap();
    assert_eq!(second.truncated, [Truncation::History, Truncation::Digests]);
    assert!(second.observed.units.values().all(|u| u.len() == 3_000));
    let third = with(second.pack().unwrap().len() - 1).unwrap();
    assert!(third.observed.units.is_empty());
    assert_eq!(third.truncated.len(), 3);
    let nothing_left = with(third.pack().unwrap().len() - 1).unwrap_err();
    assert!(
        matches!(nothing_left, ObservedError::TooLarge { .. }),
        "{nothing_left}"
    );
}

#[test]
fn what_is_no_observation_is_refused_with_words() {
    let newer = json!({"schema": 7}).to_string();
    assert!(
        Document::read(newer.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("layout 7")
    );
    assert!(matches!(
        Document::read(b"<html>"),
        Err(ObservedError::Parse(_))
    ));
    assert!(matches!(
        Document::read(&[0x1f, 0x8b, 0, 0]),
        Err(ObservedError::Unpack(_))
    ));
}

#[test]
fn a_document_that_unpacks_without_end_is_refused() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let block = vec![b' '; 1 << 20];
    for _ in 0..=(MAX_UNPACKED_BYTES >> 20) {
        gzip.write_all(&block).unwrap();
    }
    assert!(matches!(
        Document::read(&gzip.finish().unwrap()),
        Err(ObservedError::Bomb)
    ));
}

/// Maps whose keys are names, not fields.
const KEYED_BY_NAME: &[&str] = &[
    "servers",
    "ssh_keys",
    "placement_groups",
    "taken",
    "nodes",
    "pods",
    "attached",
    "ready_pods",
    "labels",
    "units",
    "intents",
    "members",
    "tickets",
    "resting",
    "systems",
    "denied",
    "lapses",
    "pace",
];

fn collect_fields(value: &Value, field: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if field == "units" => assert!(map.values().all(Value::is_object)),
        Value::Object(map) => {
            for (key, value) in map {
                if KEYED_BY_NAME.contains(&field) {
                    collect_fields(value, "", fields);
                } else {
                    fields.insert(key.clone());
                    collect_fields(value, key, fields);
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_fields(item, "", fields)),
        _ => {}
    }
}

/// A cluster with one of everything, and `objects` objects.
fn observed(objects: u32) -> Observed {
    let inventory: serde_json::Map<String, Value> = (0..objects)
        .map(|n| {
            let digest = format!("{:016x}", u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            (format!("ConfigMap/web/c{n}"), json!(digest))
        })
        .collect();
    let history: Vec<Value> = (0..objects.min(500))
        .map(|n| {
            json!({"at": "2026-11-21T11:30:00Z", "kind": "creation", "reason": "the pool is short",
                "subject": format!("demo-workers-{:x}", u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15))})
        })
        .collect();
    let node = "demo-workers-k3x9qd";
    let system = format!("/nix/store/{}-nixos", "0".repeat(32));
    let boot = "00000000-0000-0000-0000-000000000001";
    serde_json::from_value(json!({
        "at": "2026-11-21T12:00:00Z",
        "hetzner": {
            "servers": {"42": {"id": 42, "name": node, "role": "agent", "pool": "workers", "intent": "k3x9qd",
                "power": "running", "server_type": "cx33", "location": "fsn1", "created": "2026-11-21T11:00:00Z"}},
            "gone": [41],
            "network": {"id": 1, "name": "demo"},
            "firewall": {"id": 2, "name": "demo", "rules": [{"protocol": "tcp", "port": "22", "source_ips": ["203.0.113.0/24"]}]},
            "ssh_keys": {"alice": {"id": 3, "public_key": "ssh-ed25519 AAAA", "ours": true}},
            "placement_groups": {"demo-workers-1": {"id": 4, "name": "demo-workers-1", "servers": [42]}},
            "taken": {"demo-x": "a network of another cluster"},
        },
        "nodes": {node: {"name": node, "uid": "u-1", "provider_id": "hcloud://42", "control_plane": false,
            "ready": true, "unschedulable": false, "cordoned_under": "k3x9qd", "deleting": false,
            "kubelet_version": "v1.36.3+k3s1", "labels": {"tier": "web"}, "our_labels": ["tier"]}},
        "pods": {node: [{"namespace": "web", "name": "shop-1", "uid": "p-1", "node": node, "kind": "ordinary",
            "terminating": false, "blocked": "PodDisruptionBudget shop"}]},
        "ready_pods": {"shop": 2},
        "attached": {node: ["pvc-1 (claim shop/data)"]},
        "pinned": [node],
        "tokens": ["k3x9qd"],
        "units": {"web": inventory},
        "ledger": {
            "schema": 1, "cluster": "abcdefgh01234567",
            "foundation": {"name": "demo", "networkRange": "10.0.0.0/16", "pods": "10.42.0.0/16", "services": "10.43.0.0/16"},
            "admitted": {"commit": "0123456789abcdef0123456789abcdef01234567", "at": "2026-11-21T11:00:00Z"},
            "nextIntent": 9,
            "intents": {"aaaaaa": {"pool": "workers", "name": "demo-workers-aaaaaa", "at": "2026-11-21T11:59:00Z", "server": 43, "cancelled": "2026-11-21T11:59:30Z", "cut_off": "2026-11-21T11:59:40Z"}},
            "members": {"k3x9qd": {"pool": "workers", "name": node, "server": 42, "uid": "u-1"}},
            "tickets": {"k3x9qd": {"pool": "workers", "node": node, "uid": "u-1", "server": 42, "purpose": "leave",
                "reason": "scale-down", "at": "2026-11-21T11:58:00Z"}},
            "sequence": 3, "nextTicket": 8,
            "denied": {&system: {"pool": "workers", "node": node, "at": "2026-11-21T11:58:00Z", "why": "it panics"}},
            "lapses": {&system: {"pool": "workers", "node": node, "count": 1}},
            "pace": {"workers": {"steps": 2, "meanSecs": 90}},
            "resting": {"k3x9qd": "2026-11-21T13:00:00Z"},
            "history": history,
        },
        "systems": {node: {"aim": system, "says": "no space left", "unreadyDaemons": ["kube-system/cni-1"],
            "order": {"ticket": 7, "system": system, "needs": "reboot", "minor": false, "action": "try", "seconds": 900,
                "notAfter": "2026-11-21T12:15:00Z"},
            "report": {"boot": boot, "running": system, "default": system, "staged": {"system": system, "needs": "reboot"},
                "activity": {"ticket": 7, "phase": "trying", "since": "2026-11-21T11:59:00Z", "message": "x"}},
            "well": {"since": "2026-11-21T11:59:30Z", "running": system, "boot": boot}}},
        "datastore": {"etcd": {"members": [{"name": "server-1", "node": "server-1", "learner": false, "healthy": true,
            "leader": true, "lag": 0, "alarms": ["NOSPACE"]}], "snapshots": ["fabrik-before-1.37-7"]}},
        "leader": "server-1",
        "released": [6],
        "asked": {"node": "demo-servers-attic", "hash": "ab".repeat(32), "until": "2026-11-21T12:20:00Z"},
        "blockers": [{"node": node, "namespace": "web", "pod": "shop-1", "budget": "shop", "why": "it has 1"}],
        "paused": "maintenance",
    }))
    .unwrap()
}
