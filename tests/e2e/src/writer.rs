//! A load of writes, of which those are counted that the API server has acknowledged: these have to be there afterwards.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use fabrik_bed::Bed;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use tokio::task::JoinHandle;

use crate::SOON;

/// A write that is not acknowledged by then counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN_WRITES: Duration = Duration::from_millis(50);

/// Makes one ConfigMap after the other, until it is dropped.
pub struct Writer {
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Writer {
    pub fn start(client: Client) -> Self {
        let maps: Api<ConfigMap> = Api::namespaced(client, "default");
        let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let written = Arc::clone(&acknowledged);
        let task = tokio::spawn(async move {
            for number in 1.. {
                let name = format!("written-{number}");
                let mut map = ConfigMap::default();
                map.metadata.name = Some(name.clone());
                let post = PostParams::default();
                let answer = tokio::time::timeout(PATIENCE, maps.create(&post, &map)).await;
                if matches!(answer, Ok(Ok(_))) {
                    lock(&written).insert(name);
                }
                tokio::time::sleep(BETWEEN_WRITES).await;
            }
        });
        Self { acknowledged, task }
    }

    /// Until so many more are acknowledged.
    pub async fn goes_on(&self, bed: &Bed, more: usize) -> Result<()> {
        let count = || lock(&self.acknowledged).len();
        let wanted = count() + more;
        bed.wait_until("writes go on", SOON, async || {
            Ok((count() >= wanted).then_some(()))
        })
        .await
    }

    /// The names of those that are acknowledged.
    pub fn end(self) -> BTreeSet<String> {
        self.task.abort();
        lock(&self.acknowledged).clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The names of those that are there.
pub async fn config_maps(client: Client) -> Result<BTreeSet<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let maps = maps.list(&ListParams::default()).await?.items.into_iter();
    Ok(maps.filter_map(|m| m.metadata.name).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
