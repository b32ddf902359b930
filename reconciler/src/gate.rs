//! Reads a commit whole: `cluster.toml`, the manifests, the secrets. What comes out is either all that is wanted, or all
//! that is wrong with it.
//!
//! The leader, `fabrik validate` and `fabrik plan` read commits here and nowhere else.

mod node_secrets;
mod reader;

use std::collections::BTreeMap;

use fabrik_core::admit;
use fabrik_core::desired::Inventory;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::id::{ClusterName, CommitId, SecretName, UnitName};
use fabrik_core::ledger::Ledger;
use fabrik_core::manifest::{Object, Units};
use fabrik_core::spec::{self, Spec};

use self::reader::Reader;
use crate::repo::Tree;
use crate::secrets::{Secret, SecretsError, Sops};

/// The file that says what the cluster is.
pub const SPEC_FILE: &str = "cluster.toml";

/// Who reads, and what may be opened.
#[derive(Debug, Clone, Copy)]
pub enum Access<'a> {
    /// The cluster: what it can't open is a fault.
    Cluster(&'a Sops),
    /// The cluster, which reads what is in force already: a key in the clear was pushed long ago, and to stand still would help
    /// nobody.
    InForce(&'a Sops),
    /// A person: what is encrypted to others is checked for its shape, because the cluster may open it.
    Person(&'a Sops),
    /// Nobody: all encrypted files are checked for their shape.
    NoKey,
}

impl<'a> Access<'a> {
    /// A person's, with or without a key.
    pub fn of_person(sops: Option<&'a Sops>) -> Self {
        sops.map_or(Self::NoKey, Self::Person)
    }
}

/// A commit that is right in itself.
#[derive(Debug)]
pub struct Candidate {
    pub spec: Spec,
    /// The `cluster.toml` that says so.
    pub text: String,
    pub units: Units,
    /// Hetzner's; `None` when there was no key to open it with.
    pub token: Option<Secret>,
    /// What nodes are given, as far as it was opened, and the blob of git that each value is in.
    pub node_secrets: NodeSecrets,
    /// SOPS files that were looked at from outside only: they are encrypted to others, or there was no key.
    pub unopened: Vec<String>,
    /// Encrypted manifests that don't even show what they are called: they are not among the units.
    pub unplanned: Vec<String>,
    /// How many SOPS files were opened.
    pub opened: usize,
}

impl Candidate {
    /// What each unit's inventory will be.
    pub fn inventories(&self) -> BTreeMap<UnitName, Inventory> {
        let inventory = |objects: &Vec<Object>| {
            objects
                .iter()
                .map(|o| (o.key.clone(), o.digest.clone()))
                .collect()
        };
        self.units
            .iter()
            .map(|(name, objects)| (name.clone(), inventory(objects)))
            .collect()
    }
}

/// The values of `[secrets]`, and the id of the blob that each is in.
#[derive(Debug, Clone, Default)]
pub struct NodeSecrets {
    pub values: BTreeMap<SecretName, Secret>,
    pub sources: BTreeMap<SecretName, String>,
}

/// A commit that is not right in itself.
#[derive(Debug)]
pub struct Faulty {
    /// Every fault, by place.
    pub diagnostics: Vec<Diagnostic>,
    /// What its `cluster.toml` says, where that is right.
    pub spec: Option<Spec>,
    /// Its `cluster.toml`; empty where it can't be read.
    pub text: String,
}

impl Faulty {
    /// The one fault of a commit that can't even be listed.
    pub fn of(fault: Diagnostic) -> Self {
        Self {
            diagnostics: vec![fault],
            spec: None,
            text: String::new(),
        }
    }
}

/// What a commit is measured by.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    pub ledger: &'a Ledger,
    pub commit: &'a CommitId,
    /// What the cluster was founded as.
    pub founded: &'a ClusterName,
    /// The admitted commit is one of its ancestors.
    pub descends: bool,
    /// What the admitted commit says, where it is known.
    pub in_force: Option<&'a Spec>,
}

/// Whether a commit that was read may be admitted. Of one that is faulty in itself, all else that speaks against it is
/// told as well.
///
/// # Errors
/// All that speaks against it.
pub fn judge(
    read: Result<Candidate, Faulty>,
    standing: &Standing<'_>,
) -> Result<Candidate, Vec<Diagnostic>> {
    let (spec, text) = match &read {
        Ok(candidate) => (Some(&candidate.spec), candidate.text.as_str()),
        Err(faulty) => (faulty.spec.as_ref(), faulty.text.as_str()),
    };
    let admission = admit::against(
        standing.ledger,
        &admit::Candidate {
            commit: standing.commit,
            founded: Some(standing.founded),
            descends: standing.descends,
            spec,
            text,
            in_force: standing.in_force,
        },
    );
    match (admission, read) {
        (Ok(()), Ok(candidate)) => Ok(candidate),
        (Err(faults), Ok(_)) => Err(faults),
        (admission, Err(faulty)) => {
            let mut all = admission.err().unwrap_or_default();
            all.extend(faulty.diagnostics);
            Err(all)
        }
    }
}

/// Reads a commit. An encrypted manifest that is not opened is among the units as far as it is in the clear: what it is
/// called, and its digest.
///
/// # Errors
/// The outer one is no fault of the commit: `sops` or the key is missing, a file can't be read.
pub async fn read_commit(
    tree: &Tree,
    access: Access<'_>,
) -> Result<Result<Candidate, Faulty>, SecretsError> {
    let mut reader = Reader::new(tree, access);
    let text = reader.spec_text()?;
    let spec = reader.spec(text.as_deref());
    let token = match &spec {
        Some(spec) => spec.hetzner.as_ref().map(|project| project.token.clone()),
        // A fault elsewhere in the spec hides none of the token's.
        None => text.as_deref().and_then(spec::token_reference),
    };
    let token = match token {
        Some(reference) => reader.token(&reference).await?,
        None => None,
    };
    let node_secrets = match &spec {
        Some(spec) => {
            reader
                .node_secrets(spec, text.as_deref().unwrap_or_default())
                .await?
        }
        None => NodeSecrets::default(),
    };
    let units = reader.units().await?;
    let unopened = reader.other_secrets().await?;
    reader.forget_unused();
    let text = text.unwrap_or_default();
    let opened = reader.opened();
    let unplanned = reader.unplanned();
    let diagnostics = reader.into_faults();
    Ok(match spec {
        Some(spec) if diagnostics.is_empty() => Ok(Candidate {
            spec,
            text,
            units,
            token,
            node_secrets,
            unopened,
            unplanned,
            opened,
        }),
        spec => Err(Faulty {
            diagnostics,
            spec,
            text,
        }),
    })
}

/// What is wrong with the secrets that nodes are given, where `cluster.toml` says rightly which those are.
///
/// # Errors
/// As of [`read_commit`].
pub async fn check_node_secrets(
    tree: &Tree,
    access: Access<'_>,
) -> Result<Vec<Diagnostic>, SecretsError> {
    let mut reader = Reader::new(tree, access);
    if tree.file(SPEC_FILE).is_none() {
        return Ok(Vec::new());
    }
    let text = reader.spec_text()?.unwrap_or_default();
    let Ok(spec) = spec::parse(SPEC_FILE, &text) else {
        return Ok(Vec::new());
    };
    reader.node_secrets(&spec, &text).await?;
    Ok(reader.into_faults())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_in_the_clear_is_refused_and_what_is_in_force_with_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let spec = "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36\"\n";
        write(SPEC_FILE, spec);
        let key =
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ\n";
        write("nixos/host_key", key);
        let tree = Tree::of_directory(dir.path()).unwrap();
        let sops = Sops::new(dir.path().join("age.key"), None);
        let read = async |access| read_commit(&tree, access).await.unwrap();
        let faults = read(Access::Cluster(&sops)).await.unwrap_err().diagnostics;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].place.file, "nixos/host_key");
        assert!(read(Access::InForce(&sops)).await.is_ok());
    }
}
