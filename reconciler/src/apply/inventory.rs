//! `FabrikUnit` objects: what each unit may have in the cluster, and how it is.

use fabrik_core::desired::{Inventory, ObjectKey};
use fabrik_core::id::{CommitId, InvalidId, UnitName};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams, Preconditions};
use kube::core::{ApiResource, GroupVersionKind, ObjectList};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

/// A unit as it is stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub inventory: Inventory,
    /// The last commit that changed something in it.
    pub commit: Option<CommitId>,
    /// Its status as written last, without the inventory.
    pub(super) status: Value,
    pub(super) version: Option<String>,
    uid: Option<String>,
    generation: i64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum InventoryError {
    /// Somebody else wrote since we read: another leader, or a person.
    #[error("FabrikUnit {0} was changed by somebody else; it is read again")]
    Changed(UnitName),
    #[error(
        "FabrikUnit {unit} holds `{text}`, which is no object's name: {problem}. Remove this entry from its status.inventory"
    )]
    Entry {
        unit: UnitName,
        text: String,
        problem: String,
    },
    #[error("a FabrikUnit has a name that no unit can have: {0}. Delete it")]
    Name(#[from] InvalidId),
    #[error("can't reach the FabrikUnits: {0}")]
    Api(#[source] Box<kube::Error>),
}

pub(super) type Listed = Vec<Result<(UnitName, Stored), InventoryError>>;

/// Reads and writes `FabrikUnit` objects. A write replaces exactly what was read (by resource version), so a leader
/// that was replaced meanwhile can't overwrite its successor's inventory.
#[derive(Clone)]
pub(super) struct InventoryStore {
    api: Api<DynamicObject>,
    resource: ApiResource,
}

impl InventoryStore {
    pub fn new(client: Client) -> Self {
        let kind = GroupVersionKind::gvk("fabrik.dev", "v1alpha1", "FabrikUnit");
        let resource = ApiResource::from_gvk_with_plural(&kind, "fabrikunits");
        Self {
            api: Api::all_with(client, &resource),
            resource,
        }
    }

    /// All that there are, each read or with what is wrong in it.
    pub async fn load(&self) -> Result<Listed, InventoryError> {
        let list: ObjectList<DynamicObject> = self.api.list(&ListParams::default()).await?;
        Ok(list.items.into_iter().map(parse).collect())
    }

    /// Stores inventory and status, creates the object if it is not there, and returns what is stored now.
    pub(super) async fn write(
        &self,
        unit: &UnitName,
        before: &Stored,
        after: Written,
    ) -> Result<Stored, InventoryError> {
        let mut object = DynamicObject::new(unit.as_str(), &self.resource);
        let (version, generation) = match &before.version {
            Some(version) => (Some(version.clone()), before.generation),
            None => self.create(unit, &object).await?,
        };
        object.metadata.resource_version.clone_from(&version);
        let mut status = after.status.clone();
        stamp(&mut status, generation);
        status["inventory"] = json!(after.inventory);
        if let Some(commit) = &after.commit {
            status["commit"] = json!(commit);
        }
        object.data = json!({"spec": {}, "status": status});
        let written = self
            .api
            .replace_status(unit.as_str(), &PostParams::default(), &object)
            .await
            .map_err(|error| changed(error, unit))?;
        Ok(Stored {
            inventory: after.inventory,
            commit: after.commit,
            status: after.status,
            version: written.metadata.resource_version,
            uid: written.metadata.uid,
            generation,
        })
    }

    /// Deletes the object of a unit that is gone from the repository and has nothing left.
    pub(super) async fn delete(
        &self,
        unit: &UnitName,
        stored: &Stored,
    ) -> Result<(), InventoryError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: stored.version.clone(),
                uid: stored.uid.clone(),
            }),
            ..DeleteParams::default()
        };
        match self.api.delete(unit.as_str(), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(changed(error, unit)),
        }
    }

    async fn create(
        &self,
        unit: &UnitName,
        object: &DynamicObject,
    ) -> Result<(Option<String>, i64), InventoryError> {
        let mut object = object.clone();
        object.data = json!({"spec": {}});
        let created = self.api.create(&PostParams::default(), &object).await;
        let created = created.map_err(|error| changed(error, unit))?.metadata;
        Ok((created.resource_version, created.generation.unwrap_or(1)))
    }
}

/// What to store of a unit.
pub(super) struct Written {
    pub inventory: Inventory,
    pub commit: Option<CommitId>,
    pub status: Value,
}

impl From<kube::Error> for InventoryError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

fn changed(error: kube::Error, unit: &UnitName) -> InventoryError {
    match error {
        kube::Error::Api(status) if status.code == 409 || status.code == 404 => {
            InventoryError::Changed(unit.clone())
        }
        error => error.into(),
    }
}

/// Writes which generation a status is about, into it and into each of its conditions.
fn stamp(status: &mut Value, generation: i64) {
    let Some(fields) = status.as_object_mut() else {
        return;
    };
    for condition in conditions(fields) {
        condition.insert("observedGeneration".to_owned(), json!(generation));
    }
    fields.insert("observedGeneration".to_owned(), json!(generation));
}

fn conditions(fields: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let list = fields.get_mut("conditions").and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn parse(object: DynamicObject) -> Result<(UnitName, Stored), InventoryError> {
    let unit: UnitName = object.metadata.name.unwrap_or_default().parse()?;
    let mut status = object.data.get("status").cloned().unwrap_or(Value::Null);
    let mut inventory = Inventory::new();
    let mut commit = None;
    if let Some(fields) = status.as_object_mut() {
        fields.remove("observedGeneration");
        for condition in conditions(fields) {
            condition.remove("observedGeneration");
        }
        let text = fields.remove("commit");
        commit = text.and_then(|c| c.as_str().and_then(|c| c.parse().ok()));
        let entries = fields.remove("inventory").unwrap_or(Value::Null);
        for (text, digest) in entries.as_object().into_iter().flatten() {
            let key = ObjectKey::try_from(text.clone());
            let key = key.map_err(|problem| InventoryError::Entry {
                unit: unit.clone(),
                text: text.clone(),
                problem,
            })?;
            inventory.insert(key, digest.as_str().unwrap_or_default().to_owned());
        }
    }
    let stored = Stored {
        inventory,
        commit,
        status,
        version: object.metadata.resource_version,
        uid: object.metadata.uid,
        generation: object.metadata.generation.unwrap_or(1),
    };
    Ok((unit, stored))
}
