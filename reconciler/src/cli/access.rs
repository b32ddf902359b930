//! The way of a person's verb to the cluster: kubeconfig, and which `FabrikCluster` is meant.
//!
//! The verbs read fabrik's kinds tolerantly, because a laptop's fabrik may be older or newer than the leader's: what is
//! missing is empty, what is unknown is skipped.

use std::path::{Path, PathBuf};

use clap::Args;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::id::CommitId;
use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::config::Kubeconfig;
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

mod way;

use self::way::{Origin, Way, innermost, others_here};

/// Which cluster.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterOptions {
    /// The kubeconfig to use; else `$KUBECONFIG`, `~/.kube/config` or the pod's own account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The `FabrikCluster`, where there is more than one.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(
        "no kubeconfig was found, so there is no cluster to ask: --kubeconfig and KUBECONFIG name none, and {} is not there{}. Name \
         one. On a server of the control plane `fabrik kubeconfig` makes one; elsewhere it needs one that is still good",
        looked_at.display(),
        others_here()
    )]
    NoKubeconfig { looked_at: PathBuf },
    #[error(
        "{from} is of no use as a kubeconfig: {problem}. Name another one by --kubeconfig or KUBECONFIG{}",
        others_here()
    )]
    Kubeconfig { from: Origin, problem: String },
    #[error(
        "{from} leads to {server}, which can't be asked: {problem}. From outside, the address that you come from has to be in \
         [firewall] api-from. Where that server is gone, name a kubeconfig that leads to another one (--kubeconfig, KUBECONFIG); \
         `fabrik kubeconfig` makes one on each server of the control plane"
    )]
    Unreachable {
        from: Origin,
        server: String,
        problem: String,
    },
    #[error(
        "{from} leads to {server}, which does not let it in ({said}): its time is over, or it is another cluster's. `fabrik \
         kubeconfig` makes another one, with one that is still good or on a server of the control plane"
    )]
    NotLetIn {
        from: Origin,
        server: String,
        said: String,
    },
    #[error("the API server was asked to {what} and did not: {}", said(error))]
    Api {
        what: String,
        error: Box<kube::Error>,
    },
    #[error("this cluster has no FabrikCluster: `fabrik found` makes it")]
    NotFounded,
    #[error("this cluster has several FabrikClusters ({0}): choose one by --cluster")]
    Several(String),
    #[error("{object} does not read: {source}. Is this fabrik much older than the cluster's?")]
    Unreadable {
        object: String,
        source: serde_json::Error,
    },
}

/// A cluster, and the name of its `FabrikCluster`.
#[derive(Clone)]
pub struct Access {
    pub client: Client,
    pub cluster: String,
}

impl ClusterOptions {
    /// Finds the cluster's `FabrikCluster`.
    pub async fn open(&self) -> Result<Access, AccessError> {
        let way = Way::find(self.kubeconfig.as_deref()).await?;
        let cluster = if let Some(name) = &self.cluster {
            name.clone()
        } else {
            let only = only_cluster(&way.client).await;
            only.map_err(|error| way.explain(error))?
        };
        let client = way.client;
        Ok(Access { client, cluster })
    }

    /// The kubeconfig itself, where there is one: a pod's own account is none.
    pub fn kubeconfig(&self) -> Result<Kubeconfig, AccessError> {
        Origin::find(self.kubeconfig.as_deref())?.kubeconfig()
    }
}

/// A client of the kubeconfig that is named, else of `$KUBECONFIG`, `~/.kube/config` or the pod's own account.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, AccessError> {
    Ok(Way::find(kubeconfig).await?.client)
}

impl Access {
    pub fn clusters(&self) -> Api<DynamicObject> {
        api(&self.client, "FabrikCluster")
    }

    pub fn units(&self) -> Api<DynamicObject> {
        api(&self.client, "FabrikUnit")
    }

    pub fn nodes(&self) -> Api<DynamicObject> {
        api(&self.client, "FabrikNode")
    }
}

/// The API server's own words, where it has answered.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => innermost(error),
    }
}

/// An error of the API, with what was asked of it.
pub fn asked_to(what: impl Into<String>) -> impl FnOnce(kube::Error) -> AccessError {
    let what = what.into();
    move |error| AccessError::Api {
        what,
        error: Box::new(error),
    }
}

/// The part of an object under `field`, empty where it is missing.
pub fn part<T: DeserializeOwned + Default>(
    object: &DynamicObject,
    field: &str,
) -> Result<T, AccessError> {
    let Some(value) = object.data.get(field).filter(|v| !v.is_null()) else {
        return Ok(T::default());
    };
    T::deserialize(value).map_err(|source| AccessError::Unreadable {
        object: format!("the {field} of {}", object.name_any()),
        source,
    })
}

/// `FabrikCluster.spec`, as far as people's verbs need it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    pub cluster_id: String,
    pub paused: Option<Paused>,
}

/// Who stopped all effects, when and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub by: String,
    pub at: Timestamp,
}

/// The commit that was looked at and not obeyed, with all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    pub commit: CommitId,
    pub at: Timestamp,
    #[serde(default)]
    pub diagnostics: Vec<Diagnostic>,
}

async fn only_cluster(client: &Client) -> Result<String, AccessError> {
    let found = api(client, "FabrikCluster")
        .list(&ListParams::default())
        .await;
    let found = match found {
        // The kind itself is missing.
        Err(kube::Error::Api(status)) if status.code == 404 => return Err(AccessError::NotFounded),
        other => other.map_err(asked_to("list FabrikClusters"))?,
    };
    let names: Vec<String> = found.items.iter().map(ResourceExt::name_any).collect();
    match names.as_slice() {
        [] => Err(AccessError::NotFounded),
        [name] => Ok(name.clone()),
        several => Err(AccessError::Several(several.join(", "))),
    }
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("fabrik.dev", "v1alpha1", kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}
