//! Snapshots of images: this cluster's, by their labels.

use fabrik_core::id::ClusterId;
use fabrik_core::names::{
    CLUSTER_LABEL, DIGEST_LABEL, IMAGE_LABEL, K3S_LABEL, NAME_LABEL, VERSION_LABEL,
};
use fabrik_core::seed::{Image, Snapshot, SnapshotState};
use jiff::Timestamp;
use serde::Deserialize;

use super::super::client::{Client, Purpose};
use super::super::convert::{cluster_labels, is_ours};
use super::super::error::{HetznerError, RequestId};
use super::super::execute::delete;
use super::super::wire::{Labels, or_default, resource};

#[derive(Debug, Deserialize)]
struct Wire {
    id: u64,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    status: String,
    #[serde(default, deserialize_with = "or_default")]
    created: String,
    #[serde(default, deserialize_with = "or_default")]
    protection: Protection,
    #[serde(default, deserialize_with = "or_default")]
    labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
struct Protection {
    #[serde(default, deserialize_with = "or_default")]
    delete: bool,
}

resource!(Wire, "images", "image");

/// All of them. A snapshot of this cluster that says no pool is a person's, and no image.
pub async fn snapshots(
    client: &Client,
    cluster: &ClusterId,
) -> Result<Vec<Snapshot>, HetznerError> {
    let selector = ("label_selector", format!("{CLUSTER_LABEL}=={cluster}"));
    let all = client
        .list::<Wire>(Some(selector), Purpose::Observe)
        .await?;
    let ours = all.iter().filter(|image| is_ours(*image, cluster));
    ours.filter_map(|image| observed(image).transpose())
        .collect()
}

/// The labels and the description that a new snapshot gets.
pub fn paper(cluster: &ClusterId, name: &str, image: &Image) -> (Labels, String) {
    let mut labels = cluster_labels(cluster);
    let version = env!("CARGO_PKG_VERSION");
    labels.insert(IMAGE_LABEL.to_owned(), image.pool.to_string());
    labels.insert(DIGEST_LABEL.to_owned(), image.digest.as_str().to_owned());
    labels.insert(VERSION_LABEL.to_owned(), version.to_owned());
    labels.insert(NAME_LABEL.to_owned(), name.to_owned());
    if let Some(minor) = image.k3s {
        labels.insert(K3S_LABEL.to_owned(), format!("1.{minor}"));
    }
    (labels, format!("{name} {}, fabrik {version}", image.pool))
}

/// Whether a snapshot is being made still; one that is gone is not.
pub async fn is_being_made(client: &Client, id: u64) -> Result<bool, HetznerError> {
    let found = client.get::<Wire>(id, Purpose::Act).await?;
    Ok(found.is_some_and(|image| image.status == "creating"))
}

/// Deletes one of this cluster's images.
pub async fn delete_snapshot(
    client: &Client,
    cluster: &ClusterId,
    id: u64,
) -> Result<(), HetznerError> {
    let what = format!("delete snapshot {id}");
    let is_image = |found: &Wire| found.labels.contains_key(IMAGE_LABEL);
    let deleted = delete(client, cluster, id, what, is_image);
    deleted.await.map(drop)
}

fn observed(image: &Wire) -> Result<Option<Snapshot>, HetznerError> {
    let pool = image.labels.get(IMAGE_LABEL).map(|name| name.parse());
    let Some(Ok(pool)) = pool else {
        return Ok(None);
    };
    let created: Timestamp = image.created.parse().map_err(|_| HetznerError::Malformed {
        what: "list images".to_owned(),
        problem: format!("image {} has no readable `created`", image.id),
        id: RequestId::default(),
    })?;
    Ok(Some(Snapshot {
        id: image.id,
        pool,
        digest: image.labels.get(DIGEST_LABEL).cloned().unwrap_or_default(),
        created,
        state: match image.status.as_str() {
            "available" => SnapshotState::Available,
            "creating" => SnapshotState::Creating,
            _ => SnapshotState::Broken,
        },
        protected: image.protection.delete,
    }))
}
