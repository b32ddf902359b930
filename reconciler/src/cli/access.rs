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
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::seed::kubeconfigs;

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
        "no usable kubeconfig: {source}. Give one by --kubeconfig, by KUBECONFIG or as ~/.kube/config{}",
        written_by_seed(seeded)
    )]
    Kubeconfig {
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What seeds on this machine wrote.
        seeded: Vec<PathBuf>,
    },
    #[error("the API server was asked to {what} and did not: {}", said(source))]
    Api {
        what: String,
        source: Box<kube::Error>,
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
        let client = client(self.kubeconfig.as_deref()).await?;
        let cluster = match &self.cluster {
            Some(name) => name.clone(),
            None => only_cluster(&client).await?,
        };
        Ok(Access { client, cluster })
    }

    /// The kubeconfig itself, where there is one: a pod's own account is none.
    pub fn kubeconfig(&self) -> Result<Kubeconfig, AccessError> {
        match &self.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        }
        .map_err(unusable)
    }
}

/// A client of the kubeconfig that is named, else of `$KUBECONFIG`, `~/.kube/config` or the pod's own account.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, AccessError> {
    let config = match kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file).map_err(unusable)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(unusable)?
        }
        None => Config::infer().await.map_err(unusable)?,
    };
    Client::try_from(config).map_err(unusable)
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

/// An error of the API, with what was asked of it.
/// The API server's own words, where it has answered.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

pub fn asked_to(what: impl Into<String>) -> impl FnOnce(kube::Error) -> AccessError {
    let what = what.into();
    move |source| AccessError::Api {
        what,
        source: Box::new(source),
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

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> AccessError {
    AccessError::Kubeconfig {
        source: Box::new(error),
        seeded: kubeconfigs(),
    }
}

fn written_by_seed(files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
    match files.as_slice() {
        [] => String::new(),
        files => format!("; `fabrik seed` wrote {}", files.join(", ")),
    }
}
