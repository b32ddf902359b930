//! What the API server calls a kind, and whether it has namespaces; asked once per API version, again when a kind is
//! not found.

use std::collections::BTreeMap;

use fabrik_core::desired::ObjectKey;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersion};
use kube::discovery::{ApiGroup, Scope, oneshot};
use kube::error::DiscoveryError;
use kube::{Api, Client};

use super::failure::Failure;

#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
}

pub(super) struct Discovery {
    client: Client,
    /// By API version, each holding this version alone: what manifests name.
    versions: BTreeMap<String, ApiGroup>,
    /// By name, each with all versions: what an inventory's keys are found in.
    groups: BTreeMap<String, ApiGroup>,
}

impl Discovery {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            versions: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    /// The kind at this version. Reading an unknown one asks the API server once.
    pub async fn kind(&mut self, api_version: &str, kind: &str) -> Result<Kind, Failure> {
        let unknown = || Failure::UnknownKind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        };
        let version: GroupVersion = api_version.parse().map_err(|_| unknown())?;
        let known = self.versions.get(api_version);
        if let Some(found) = known.and_then(|group| find(group, &version.version, kind)) {
            return Ok(found);
        }
        let group = match oneshot::pinned_group(&self.client, &version).await {
            Ok(group) => group,
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(unknown()),
            Err(error) => {
                return Err(Failure::Unreachable {
                    message: error.to_string(),
                });
            }
        };
        let found = find(&group, &version.version, kind);
        self.versions.insert(api_version.to_owned(), group);
        found.ok_or_else(unknown)
    }

    /// The kind of an object whose version is not known, or `None` if the cluster no longer has such a kind.
    pub async fn of_key(&mut self, key: &ObjectKey) -> Result<Option<Kind>, Failure> {
        let known = self.versions.values().chain(self.groups.values());
        let mut known = known.filter(|g| g.name() == key.group);
        if let Some(found) = known.find_map(|g| in_any_version(g, &key.kind)) {
            return Ok(Some(found));
        }
        match oneshot::group(&self.client, &key.group).await {
            Ok(group) => {
                let found = in_any_version(&group, &key.kind);
                self.groups.insert(key.group.clone(), group);
                Ok(found)
            }
            Err(kube::Error::Discovery(
                DiscoveryError::MissingApiGroup(_) | DiscoveryError::EmptyApiGroup(_),
            )) => Ok(None),
            Err(error) => Err(Failure::Unreachable {
                message: error.to_string(),
            }),
        }
    }

    /// Forgets a group whose definitions have changed.
    pub fn forget(&mut self, group: &str) {
        self.versions.retain(|_, known| known.name() != group);
        self.groups.remove(group);
    }
}

impl Kind {
    /// Where objects of this kind with this key live, or why the key can't be right.
    pub fn api(&self, client: &Client, key: &ObjectKey) -> Result<Api<DynamicObject>, Failure> {
        match (self.namespaced, key.namespace.as_str()) {
            (true, "") => Err(Failure::NeedsNamespace),
            (true, namespace) => Ok(Api::namespaced_with(
                client.clone(),
                namespace,
                &self.resource,
            )),
            (false, "") => Ok(Api::all_with(client.clone(), &self.resource)),
            (false, _) => Err(Failure::NeedsNoNamespace),
        }
    }
}

fn find(group: &ApiGroup, version: &str, kind: &str) -> Option<Kind> {
    let mut all = group.versioned_resources(version).into_iter();
    let (resource, capabilities) = all.find(|(resource, _)| resource.kind == kind)?;
    Some(Kind {
        resource,
        namespaced: capabilities.scope == Scope::Namespaced,
    })
}

/// In the group's preferred version, or in another: a young kind is often served in none but its own alpha version.
fn in_any_version(group: &ApiGroup, kind: &str) -> Option<Kind> {
    let preferred = group.preferred_version().into_iter();
    let mut versions = preferred.chain(group.versions());
    versions.find_map(|version| find(group, version, kind))
}
