//! What the cluster itself says of its founding: the `FabrikCluster`, with the cluster's id and whom its secrets are
//! encrypted to. Who founds later has to agree.

use std::path::Path;

use fabrik_core::id::{ClusterId, ClusterName};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::cluster::error::{ClusterError, status_code, while_doing};
use crate::cluster::found::FoundError;
use crate::cluster::resources::{FabrikCluster, FabrikClusterSpec};
use crate::secrets::founding_keys;

/// The one `FabrikCluster` that there may be.
pub struct Clusters<'a> {
    api: Api<FabrikCluster>,
    name: &'a ClusterName,
}

impl<'a> Clusters<'a> {
    pub fn of(admin: &Client, name: &'a ClusterName) -> Self {
        let api = Api::all(admin.clone());
        Self { api, name }
    }

    /// Whom an earlier founding says the secrets are encrypted to.
    pub async fn age_recipient(&self) -> Result<Option<String>, FoundError> {
        let listed = self
            .api
            .list(&ListParams::default())
            .await
            .map_err(while_doing("listing FabrikClusters"))?;
        let name = self.name.as_str();
        if let Some(other) = listed.items.iter().find(|c| c.name_any() != name) {
            return Err(FoundError::OtherName {
                founded: other.name_any(),
                asked: name.to_owned(),
            });
        }
        let found = listed.items.into_iter().next();
        Ok(found.and_then(|cluster| cluster.spec.age_recipient))
    }

    /// Makes the `FabrikCluster`, or sees that the one that is there is this cluster. Returns whom it says the secrets are
    /// encrypted to: `age_recipient`, unless another founder was faster.
    pub async fn ensure(&self, id: &ClusterId, age_recipient: &str) -> Result<String, FoundError> {
        let name = self.name.as_str();
        let spec = FabrikClusterSpec {
            cluster_id: id.to_string(),
            age_recipient: Some(age_recipient.to_owned()),
            paused: None,
            installing: None,
        };
        let cluster = FabrikCluster::new(name, spec);
        let found = match self.api.create(&PostParams::default(), &cluster).await {
            Err(error) if status_code(&error) == Some(409) => self
                .api
                .get(name)
                .await
                .map_err(while_doing(format!("reading FabrikCluster {name}")))?,
            created => created.map_err(while_doing(format!("creating FabrikCluster {name}")))?,
        };
        if found.spec.cluster_id != id.as_str() {
            return Err(FoundError::OtherId {
                name: name.to_owned(),
                stated: found.spec.cluster_id,
                ledger: id.to_string(),
            });
        }
        match found.spec.age_recipient {
            Some(stated) => Ok(stated),
            None => Ok(self.state(&found, age_recipient).await?),
        }
    }

    /// For a cluster of an older founding. The version that was read goes with it, so that of two founders one is refused.
    async fn state(&self, found: &FabrikCluster, recipient: &str) -> Result<String, ClusterError> {
        let name = self.name.as_str();
        let stated = json!({
            "metadata": {"resourceVersion": found.metadata.resource_version},
            "spec": {"ageRecipient": recipient},
        });
        self.api
            .patch(name, &PatchParams::default(), &Patch::Merge(&stated))
            .await
            .map_err(while_doing(format!(
                "writing the age recipient into FabrikCluster {name}"
            )))?;
        Ok(recipient.to_owned())
    }
}

/// Sees that the key in `path` opens what is encrypted to `stated`.
pub fn expect_age_key(name: &ClusterName, stated: String, path: &Path) -> Result<(), FoundError> {
    let found = founding_keys::age_recipients(path)?;
    if found.contains(&stated) {
        return Ok(());
    }
    Err(FoundError::OtherAgeKey {
        name: name.to_string(),
        stated,
        path: path.to_owned(),
        found,
    })
}
