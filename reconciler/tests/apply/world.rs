//! A leader that applies, in a world that a test writes down as text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fabrik::apply::{Engine, Lost, UnitsReport, Wanted};
use fabrik_core::apply::Allowance;
use fabrik_core::desired::ObjectKey;
use fabrik_core::diagnostic::Place;
use fabrik_core::manifest::Object;
use fabrik_core::spec::Limits;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::eventually;

pub const SOON: Duration = Duration::from_secs(20);

/// One leader's engine.
pub struct Leader {
    commands: watch::Sender<Arc<Wanted>>,
    pub reports: watch::Receiver<UnitsReport>,
    leads: Arc<AtomicBool>,
    pub granted: Arc<AtomicUsize>,
    task: JoinHandle<Result<(), Lost>>,
}

impl Leader {
    pub fn start(client: &Client, wanted: Wanted) -> Self {
        Self::start_until(client, wanted, usize::MAX)
    }

    /// Leads for so many checks of its authority.
    pub fn start_until(client: &Client, wanted: Wanted, checks: usize) -> Self {
        let (commands, receiver) = watch::channel(Arc::new(wanted));
        let (sender, reports) = watch::channel(UnitsReport::default());
        let granted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&granted);
        let grant = move |subjects: Vec<String>| {
            count.fetch_add(subjects.len(), Ordering::SeqCst);
            let answer: Result<Allowance, String> = Ok(Allowance {
                count: subjects.len(),
                more_at: None,
            });
            let answer: futures::future::BoxFuture<'static, _> = Box::pin(async { answer });
            answer
        };
        let engine = Engine::new(client.clone(), Arc::new(grant));
        let leads = Arc::new(AtomicBool::new(true));
        let (still, left) = (Arc::clone(&leads), AtomicUsize::new(checks));
        let authority = move || {
            let take = |left: usize| left.checked_sub(1);
            let order = Ordering::SeqCst;
            let some_left = left.fetch_update(order, order, take).is_ok();
            (still.load(order) && some_left).then_some(()).ok_or(Lost)
        };
        let task = tokio::spawn(engine.run(receiver, sender, Arc::new(authority)));
        Self {
            commands,
            reports,
            leads,
            granted,
            task,
        }
    }

    pub fn push(&self, wanted: Wanted) {
        self.commands.send_replace(Arc::new(wanted));
    }

    pub async fn until(&mut self, what: &str, holds: impl Fn(&UnitsReport) -> bool) -> UnitsReport {
        let mut reports = self.reports.clone();
        let found = tokio::time::timeout(SOON, reports.wait_for(|r| holds(r))).await;
        match found {
            Ok(Ok(report)) => report.clone(),
            _ => panic!("{what}: not within {SOON:?}\n{:#?}", self.reports.borrow()),
        }
    }

    pub async fn until_applied(&mut self, commit: char) -> UnitsReport {
        let commit = commit_id(commit);
        self.until("the commit is applied", |r| {
            r.applied && r.commit.as_ref() == Some(&commit)
        })
        .await
    }

    /// Leadership passes to somebody else.
    pub async fn lose(self) -> Result<(), Lost> {
        self.leads.store(false, Ordering::SeqCst);
        self.ended().await
    }

    pub async fn ended(self) -> Result<(), Lost> {
        tokio::time::timeout(SOON, self.task)
            .await
            .unwrap()
            .unwrap()
    }
}

/// A commit with these units; each object at `digest`, which is the commit's own unless its JSON has another.
pub fn wanted(commit: char, units: &[(&str, &[Value])]) -> Wanted {
    let unit = |(name, objects): &(&str, &[Value])| {
        let objects = objects.iter().map(|value| object(name, value)).collect();
        (name.parse().unwrap(), objects)
    };
    Wanted {
        commit: commit_id(commit),
        units: units.iter().map(unit).collect::<BTreeMap<_, _>>(),
        limits: Limits::default(),
        paused: None,
    }
}

fn commit_id(digit: char) -> fabrik_core::id::CommitId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn object(unit: &str, value: &Value) -> Object {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let api_version = text(&value["apiVersion"]);
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    Object {
        key: ObjectKey {
            group: group.to_owned(),
            kind: text(&value["kind"]),
            namespace: text(&value["metadata"]["namespace"]),
            name: text(&value["metadata"]["name"]),
        },
        value: value.clone(),
        place: Place::at(format!("manifests/{unit}/all.yaml"), 1, 1),
        // Any text that changes with the document does.
        digest: value.to_string(),
        encrypted: false,
        api_version,
    }
}

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub fn config(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "web"},
           "data": {"key": value}})
}

pub fn definition(group: &str, kind: &str, plural: &str, scope: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": scope, "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true,
                "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}]}})
}

pub fn api(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk(group, version, kind);
    Api::all_with(
        client.clone(),
        &ApiResource::from_gvk_with_plural(&gvk, plural),
    )
}

pub fn units(client: &Client) -> Api<DynamicObject> {
    api(
        client,
        "fabrik.dev",
        "v1alpha1",
        "FabrikUnit",
        "fabrikunits",
    )
}

/// Makes the definition of `FabrikUnit`, as founding does.
pub async fn found(client: &Client) {
    let definitions = fabrik::cluster::resources::definitions();
    let mut definitions = definitions.into_iter().map(|(_, definition)| definition);
    let units = definitions.find(|d| d.spec.names.kind == "FabrikUnit");
    found_as(client, serde_json::to_value(units).unwrap()).await;
}

/// Makes it as an earlier version may have had it.
pub async fn found_as(client: &Client, value: Value) {
    let definitions = api(
        client,
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    let params = PatchParams::apply("founding");
    let name = "fabrikunits.fabrik.dev";
    definitions
        .patch(name, &params, &Patch::Apply(value))
        .await
        .unwrap();
    let units = units(client);
    eventually("FabrikUnit is served", SOON, async || {
        units.list(&ListParams::default()).await.is_ok()
    })
    .await;
}
