//! Where a plan gets its picture of the cluster: a file, a URL, or the cluster itself.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;

use crate::cli::access::{Access, AccessError, ClusterOptions, asked_to};
use crate::report::observed::{CONFIG_MAP, CONFIG_MAP_KEY, Document, ObservedError};
use fabrik_core::names::NAMESPACE;

/// Where `--observed` is not given.
const VARIABLE: &str = "FABRIK_OBSERVED";
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{file} can't be read: {source}")]
    File {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{url} can't be fetched: {source}")]
    Fetch { url: String, source: reqwest::Error },
    #[error("the observation of {place} is of no use: {source}")]
    Document {
        place: String,
        source: ObservedError,
    },
    #[error(
        "no observation was given (--observed FILE or URL, or {VARIABLE}), and the cluster could not be asked: {0}"
    )]
    Cluster(#[source] AccessError),
    #[error(
        "the leader has not published an observation yet (ConfigMap {NAMESPACE}/{CONFIG_MAP}). Repeat this in a moment"
    )]
    NotPublished,
}

/// Reads the observation at `place`, at `$FABRIK_OBSERVED`, or in the cluster that the kubeconfig leads to.
pub async fn read(
    place: Option<String>,
    cluster: &ClusterOptions,
) -> Result<Document, SourceError> {
    let variable = || std::env::var(VARIABLE).ok().filter(|v| !v.is_empty());
    let (place, bytes) = match place.or_else(variable) {
        Some(url) if url.starts_with("https://") || url.starts_with("http://") => {
            let bytes = fetch(&url).await;
            let bytes = bytes.map_err(|source| SourceError::Fetch {
                url: url.clone(),
                source: source.without_url(),
            })?;
            (url, bytes)
        }
        Some(file) => {
            let bytes = tokio::fs::read(&file).await;
            let bytes = bytes.map_err(|source| SourceError::File {
                file: PathBuf::from(&file),
                source,
            })?;
            (file, bytes)
        }
        None => {
            let access = cluster.open().await.map_err(SourceError::Cluster)?;
            (
                format!("cluster {}", access.cluster),
                published(&access).await?,
            )
        }
    };
    Document::read(&bytes).map_err(|source| SourceError::Document { place, source })
}

async fn fetch(url: &str) -> Result<Vec<u8>, reqwest::Error> {
    let client = reqwest::Client::builder().timeout(DEADLINE).build()?;
    let answer = client.get(url).send().await?.error_for_status()?;
    Ok(answer.bytes().await?.into())
}

pub async fn published(access: &Access) -> Result<Vec<u8>, SourceError> {
    let maps: Api<ConfigMap> = Api::namespaced(access.client.clone(), NAMESPACE);
    let map = maps
        .get_opt(CONFIG_MAP)
        .await
        .map_err(asked_to(format!("read ConfigMap {NAMESPACE}/{CONFIG_MAP}")))
        .map_err(SourceError::Cluster)?;
    let packed = map
        .and_then(|map| map.binary_data)
        .and_then(|mut data| data.remove(CONFIG_MAP_KEY));
    packed.map(|bytes| bytes.0).ok_or(SourceError::NotPublished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_missing_or_no_observation_is_named() {
        let missing = read(Some("no/such/file".to_owned()), &ClusterOptions::default()).await;
        assert!(
            missing
                .unwrap_err()
                .to_string()
                .starts_with("no/such/file can't be read")
        );
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").to_owned();
        let error = read(Some(here.clone()), &ClusterOptions::default())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&here), "{error}");
    }
}
