//! The way of a person's verb to Hetzner: the repository's spec, and the project by the token that it keeps.

use std::path::PathBuf;

use clap::Args;
use fabrik_core::spec::{self, SecretRef, Spec};

use super::validate::print_faults;
use super::{Failure, init, tree_of_root};
use crate::cluster::found::DEFAULT_HETZNER_ENDPOINT;
use crate::gate::SPEC_FILE;
use crate::hetzner::{Client, Token};
use crate::repo::Tree;
use crate::secrets::{Secret, Sops, field, users_age_key_file};

/// Which project.
#[derive(Debug, Clone, Args)]
pub struct ProjectOptions {
    /// The repository's root.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// A file with the project's API token, or with a line HCLOUD_TOKEN=…, `-` is standard input; else it is opened where
    /// cluster.toml says.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Your age key; else where `sops` looks for it.
    #[arg(long, value_name = "FILE")]
    pub age_key_file: Option<PathBuf>,
    /// Hetzner's API.
    #[arg(long, value_name = "URL", default_value = DEFAULT_HETZNER_ENDPOINT, hide = true)]
    pub hetzner_endpoint: String,
}

/// A repository's cluster at Hetzner.
pub struct Project {
    pub spec: Spec,
    pub client: Client,
}

#[derive(Debug, thiserror::Error)]
enum ProjectError {
    #[error("{SPEC_FILE} has faults (see above), so nothing was done. Mend them first")]
    Faults,
    #[error(
        "{SPEC_FILE} has no [hetzner], so this cluster has no project there. If it had one, write \
         [hetzner] there again; `fabrik destroy` takes that one's token by --token-file"
    )]
    NoProject,
    #[error("{file}, where Hetzner's token is, is not in {dir}. Give the token by --token-file")]
    NoFile { file: String, dir: PathBuf },
    #[error(
        "no age key opens {file}: give one by --age-key-file or SOPS_AGE_KEY_FILE, or the token by --token-file"
    )]
    NoKey { file: String },
}

impl ProjectOptions {
    /// Reads the spec.
    pub fn spec(&self) -> Result<(Tree, Spec), Failure> {
        let tree = tree_of_root(&self.dir)?;
        let text = String::from_utf8(tree.read(SPEC_FILE)?)?;
        let spec = spec::parse(SPEC_FILE, &text).map_err(|faults| {
            print_faults(&faults);
            ProjectError::Faults
        })?;
        Ok((tree, spec))
    }

    /// Reads the spec, opens the token, and asks Hetzner nothing yet.
    pub async fn open(&self) -> Result<Project, Failure> {
        let (tree, spec) = self.spec()?;
        let token = if let Some(file) = &self.token_file {
            init::keys::token(Some(file)).await?
        } else {
            let project = spec.hetzner.as_ref().ok_or(ProjectError::NoProject)?;
            self.token(&tree, &project.token).await?
        };
        let client = Client::new(&self.hetzner_endpoint, Token::from(&token))?;
        Ok(Project { spec, client })
    }

    async fn token(&self, tree: &Tree, reference: &SecretRef) -> Result<Secret, Failure> {
        let path = &reference.file;
        let file = tree.file(path).ok_or_else(|| ProjectError::NoFile {
            file: path.clone(),
            dir: self.dir.clone(),
        })?;
        let key = self.age_key_file.clone().or_else(users_age_key_file);
        let key = key.ok_or_else(|| ProjectError::NoKey { file: path.clone() })?;
        let content = tree.read(path)?;
        let opened = Sops::of_person(key, None);
        let opened = opened.decrypt(path, &file.blob, &content).await?;
        Ok(field(path, &opened, &reference.key)?)
    }
}
