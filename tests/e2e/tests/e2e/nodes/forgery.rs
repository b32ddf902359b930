//! Who is no leader and would be one: a node's identity, and one that may write the status of every Node. Each refusal
//! stands beside what the same one may do.

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fabrik_bed::pki::{Authority, Subject};
use fabrik_bed::{Bed, Machine, SystemChange, system};
use fabrik_e2e::rolling::{ROLLED_OUT, file_of};
use fabrik_e2e::{SOON, World};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NODES: &str = "system:nodes";
/// k3s' agents share it, and it may write the status of every Node.
const SHARED: &str = "system:k3s-controller";
/// Higher than any number that a ticket will have.
const HIGHEST: u64 = 1 << 40;
/// An agent waits a minute for the publication of what it is ordered to try.
const GIVEN_UP: Duration = Duration::from_secs(100);

/// Nobody reports, publishes or fetches so.
pub async fn nobody_speaks_in_another_s_name(world: &World, worker: &Machine) -> Result<()> {
    let bed = &world.bed;
    reports_of_others(bed, worker.name()).await?;
    publications(world, worker.name()).await?;
    fetching(bed, worker).await?;
    what_was_published_once(world, worker).await
}

async fn reports_of_others(bed: &Bed, worker: &str) -> Result<()> {
    let by_node = nodes_of(node(bed, worker).await?);
    let shared = bed.kube_for(SHARED, None).await?;
    let by_shared = nodes_of(shared.clone());
    let state = json!({"status": {"state": "Steady"}});
    written(status_of(&by_node, worker, &state).await)?;
    let other = status_of(&by_node, "server-1", &state).await;
    refused(other, "fabrik-node-status")?;

    let all: Api<Node> = Api::all(shared);
    let noted = |key: &str| json!({"metadata": {"annotations": {key: "yes"}}});
    written(status_of(&all, worker, &noted("example.com/seen")).await)?;
    let ours = status_of(&all, worker, &noted("fabrik.dev/cordoned-for")).await;
    refused(ours, "fabrik-node-keys")?;
    let report = status_of(&by_shared, worker, &state).await;
    refused(report, "cannot patch resource")
}

/// The leader's own got through: the node has fetched by it what it runs.
async fn publications(world: &World, worker: &str) -> Result<()> {
    let told = || {
        let spec = world.get(&["fabriknode", worker])?["spec"].clone();
        anyhow::Ok(["aim", "publication", "order"].map(|key| spec[key].clone()))
    };
    let published = told()?;
    let statement = &published[1]["statement"];
    ensure!(statement.is_string(), "{published:#?}");
    let forged = json!({"spec": {
        "aim": "/nix/store/00000000000000000000000000000000-forged",
        "publication": {"statement": "{}", "signature": "demo-1:AAAA"},
        "order": {"ticket": HIGHEST},
    }});
    for forger in [
        node(&world.bed, worker).await?,
        world.bed.kube_for(SHARED, None).await?,
    ] {
        let nodes = nodes_of(forger);
        refused(
            spec_of(&nodes, worker, &forged).await,
            "cannot patch resource",
        )?;
        // The one may write the status and the other not: either way the spec is as it was.
        let _ = status_of(&nodes, worker, &forged).await;
    }
    let now = told()?;
    ensure!(now == published, "{now:#?}\nwas\n{published:#?}");
    Ok(())
}

async fn fetching(bed: &Bed, worker: &Machine) -> Result<()> {
    let file = worker.root().context("a disk")?;
    let own = Pem::read(&file.path("var/lib/rancher/k3s/agent/kubelet.kubeconfig"))?;
    let url = format!(
        "https://{}:9642/nix-cache-info",
        bed.control_plane(0).address()
    );
    let get = async |identity: Option<&str>| {
        let root = reqwest::Certificate::from_pem(own.authority.as_bytes())?;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        let client = match identity {
            Some(pem) => client.identity(reqwest::Identity::from_pem(pem.as_bytes())?),
            None => client,
        };
        let answer = client.build()?.get(&url).send().await;
        anyhow::Ok(answer.map(|answer| answer.status().as_u16()))
    };
    let honest = get(Some(&own.identity)).await?;
    ensure!(matches!(honest, Ok(200)), "the node itself: {honest:?}");
    let admin = Pem::read(&bed.kubeconfig_for("an-admin", Some("system:masters"))?)?;
    let subject = Subject::client(&format!("system:node:{}", worker.name()), Some(NODES));
    let stranger = Authority::new("another cluster's")?.issue(&subject)?;
    let stranger = format!("{}{}", stranger.certificate_pem, stranger.key_pem);
    for (who, identity) in [
        ("nobody", None),
        ("an admin", Some(admin.identity.as_str())),
        ("a node of another cluster", Some(stranger.as_str())),
    ] {
        let answer = get(identity).await?;
        let turned_away = answer.as_ref().is_err_and(|e| !e.is_timeout());
        ensure!(turned_away, "{who} was let in, or not heard: {answer:?}");
    }
    Ok(())
}

/// By somebody who may write the spec of a FabrikNode, but has not the key.
async fn what_was_published_once(world: &World, worker: &Machine) -> Result<()> {
    let bed = &world.bed;
    let old = world.get(&["fabriknode", worker.name()])?["spec"].clone();
    let old_system = worker.system()?.path;
    runs_package(world, worker, "2").await?;
    let new_system = worker.system()?.path;
    ensure!(new_system != old_system, "another package, the same system");
    world
        .fabrik(&["pause", "--reason", "somebody forges"])?
        .ok()?;
    world.paused().await?;

    let admin = nodes_of(bed.kube().await?);
    let show = async |publication: &Value, order: Value| {
        let spec = json!({"spec": {"publication": publication, "aim": old_system, "order": order}});
        written(spec_of(&admin, worker.name(), &spec).await)
    };
    let says = async |what: &str, says: &dyn Fn(&Value) -> bool, limit| {
        let said = bed.wait_until(what, limit, async || {
            let status = world.get(&["fabriknode", worker.name()])?["status"].clone();
            ensure!(says(&status), "{status:#}");
            Ok(Some(()))
        });
        said.await
    };
    let message = |text: &'static str| {
        move |status: &Value| status["message"].as_str().is_some_and(|m| m.contains(text))
    };
    show(&old["publication"], Value::Null).await?;
    says(
        "an old one is refused",
        &message("an older one is not obeyed"),
        SOON,
    )
    .await?;
    let mut tampered = old["publication"].clone();
    let statement = tampered["statement"].as_str().context("a statement")?;
    let newer = statement.replace("\"sequence\":", "\"sequence\":9");
    ensure!(newer != statement, "no number in {statement}");
    tampered["statement"] = newer.into();
    show(&tampered, Value::Null).await?;
    says(
        "a changed one is refused",
        &message("is not signed by"),
        SOON,
    )
    .await?;

    let order = json!({"ticket": HIGHEST, "system": old_system, "needs": "switch", "minor": false,
        "action": "try", "seconds": 600});
    show(&old["publication"], order).await?;
    let given_up = |status: &Value| {
        let activity = &status["report"]["activity"];
        activity["ticket"] == HIGHEST && activity["phase"] == "went-back"
    };
    says(
        "an order about what was published once ends",
        &given_up,
        GIVEN_UP,
    )
    .await?;
    ensure!(worker.system()?.path == new_system, "it runs the old one");

    // And it has spoiled nothing for the leader.
    world.fabrik(&["resume"])?.ok()?;
    runs_package(world, worker, "3").await
}

/// Pushes another package, which the leader has the worker try and keep.
async fn runs_package(world: &World, worker: &Machine, version: &str) -> Result<()> {
    let change = SystemChange::Package(version.to_owned());
    world.bed.change_system(system::WORKERS, &change)?;
    let commit = world
        .bed
        .git()
        .commit_and_push(&format!("Have package {version}"))?;
    let what = format!("{} runs package {version}", worker.name());
    let runs = world.bed.wait_until(&what, ROLLED_OUT, async || {
        let package = file_of(worker, &worker.system()?.path, "package")?;
        let status = world.status().await?;
        ensure!(
            package == version && status["appliedCommit"] == commit,
            "{status:#}"
        );
        Ok(Some(()))
    });
    runs.await
}

/// What a kubeconfig holds, as PEM.
struct Pem {
    authority: String,
    identity: String,
}

impl Pem {
    fn read(kubeconfig: &Path) -> Result<Self> {
        let text: Value = serde_json::from_slice(&std::fs::read(kubeconfig)?)?;
        let pem = |base64: &Value| {
            let ByteString(bytes) = serde_json::from_value(base64.clone())?;
            anyhow::Ok(String::from_utf8(bytes)?)
        };
        let user = &text["users"][0]["user"];
        let certificate = pem(&user["client-certificate-data"])?;
        let key = pem(&user["client-key-data"])?;
        Ok(Self {
            authority: pem(&text["clusters"][0]["cluster"]["certificate-authority-data"])?,
            identity: certificate + &key,
        })
    }
}

async fn node(bed: &Bed, name: &str) -> Result<Client> {
    bed.kube_for(&format!("system:node:{name}"), Some(NODES))
        .await
}

fn nodes_of(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("fabrik.dev", "v1alpha1", "FabrikNode");
    Api::all_with(client, &ApiResource::from_gvk(&kind))
}

async fn spec_of<K: Clone + DeserializeOwned + Debug>(
    api: &Api<K>,
    name: &str,
    body: &Value,
) -> Result<K, kube::Error> {
    let params = PatchParams::default();
    api.patch(name, &params, &Patch::Merge(body)).await
}

async fn status_of<K: DeserializeOwned>(
    api: &Api<K>,
    name: &str,
    body: &Value,
) -> Result<K, kube::Error> {
    let params = PatchParams::default();
    api.patch_status(name, &params, &Patch::Merge(body)).await
}

fn written<T>(answer: Result<T, kube::Error>) -> Result<()> {
    answer.map(drop).context("what is allowed was refused")
}

/// By who has these words.
fn refused<T: Debug>(answer: Result<T, kube::Error>, words: &str) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(words) => {
            Ok(())
        }
        other => bail!("not refused with {words}: {other:?}"),
    }
}
