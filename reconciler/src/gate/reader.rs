//! The files of one commit, read one after the other; what is wrong is noted, and reading goes on.

use std::collections::BTreeSet;

use fabrik_core::diagnostic::{Diagnostic, Place};
use fabrik_core::manifest::{self, Budget, Object, Source, Units};
use fabrik_core::spec::{self, SecretRef, Spec};

use super::{Access, SPEC_FILE};
use crate::hetzner::Token;
use crate::repo::{BlobId, File, Tree};
use crate::secrets::{
    Secret, SecretsError, Shape, SopsFile, check, closed_to_some, field, is_clear, shape,
    well_formed,
};

pub struct Reader<'a> {
    tree: &'a Tree,
    access: Access<'a>,
    faults: Vec<Diagnostic>,
    /// Files that were judged here already, so that no more is said about their encryption.
    judged: BTreeSet<String>,
    opened: BTreeSet<String>,
    /// Blobs whose plaintext is worth keeping.
    used: BTreeSet<BlobId>,
    unplanned: Vec<String>,
    budget: Budget,
}

impl<'a> Reader<'a> {
    pub fn new(tree: &'a Tree, access: Access<'a>) -> Self {
        Self {
            tree,
            access,
            faults: Vec::new(),
            judged: BTreeSet::new(),
            opened: BTreeSet::new(),
            used: BTreeSet::new(),
            unplanned: Vec::new(),
            budget: Budget::default(),
        }
    }

    pub fn spec_text(&mut self) -> Result<Option<String>, SecretsError> {
        if self.tree.file(SPEC_FILE).is_none() {
            self.fault(
                SPEC_FILE,
                SPEC_FILE,
                "is not in the repository",
                "write it; docs/spec.md has an example",
            );
            return Ok(None);
        }
        let Some(content) = self.content(SPEC_FILE)? else {
            return Ok(None);
        };
        let text = String::from_utf8(content);
        if let Err(error) = &text {
            self.not_utf8(SPEC_FILE, error.as_bytes());
        }
        Ok(text.ok())
    }

    pub fn spec(&mut self, text: Option<&str>) -> Option<Spec> {
        match spec::parse(SPEC_FILE, text?) {
            Ok(spec) => Some(spec),
            Err(faults) => {
                self.faults.extend(faults);
                None
            }
        }
    }

    /// Hetzner's token, where it may be opened.
    pub async fn token(&mut self, reference: &SecretRef) -> Result<Option<Secret>, SecretsError> {
        let SecretRef { file: path, key } = reference;
        let Some(file) = self.tree.file(path).cloned() else {
            let remedy = format!("write the token into it as `{key}`, and encrypt it with sops");
            let (problem, remedy) = self.absent(path, remedy);
            self.fault(SPEC_FILE, "[hetzner] token", &problem, &remedy);
            return Ok(None);
        };
        let Some(content) = self.content(path)? else {
            return Ok(None);
        };
        if shape(path, &content) == Shape::Plain {
            let remedy = format!(
                "encrypt it: `sops encrypt --in-place {path}`; if it was pushed before, replace the token too"
            );
            self.fault(path, "[hetzner] token", "is in the clear", &remedy);
            self.judged.insert(path.clone());
            return Ok(None);
        }
        if is_clear(path, &content, key) {
            let problem = format!("`{key}` is in the clear: a rule of .sops.yaml leaves it out");
            let remedy = format!(
                "have a rule there that encrypts all of {path}, encrypt it anew, and replace the token if it was pushed"
            );
            self.fault(path, "[hetzner] token", &problem, &remedy);
            return Ok(None);
        }
        let Some(plaintext) = self.open(&file, &content).await? else {
            // What a file's keys are called is in the clear.
            let named = field(path, &Secret::new(content.clone()), key);
            if let Err(error @ SecretsError::NoSuchField { .. }) = named {
                self.fault_of_secret(error)?;
            }
            return Ok(None);
        };
        match field(path, &plaintext, key) {
            Ok(token) if Token::from(&token).is_well_formed() => Ok(Some(token)),
            Ok(_) => {
                let problem = format!("`{key}` is empty or holds characters that no token has");
                let remedy = format!(
                    "put the token of a project into it (Security → API tokens): `sops edit {path}`"
                );
                self.fault(path, "[hetzner] token", &problem, &remedy);
                Ok(None)
            }
            Err(error) => self.fault_of_secret(error).map(|()| None),
        }
    }

    pub async fn units(&mut self) -> Result<Units, SecretsError> {
        let mut objects = Vec::new();
        let tree = self.tree;
        for file in tree.files().filter(|f| manifest::is_inside(&f.path)) {
            // Whatever it is called: a link or a submodule may stand for a whole unit, and nobody looks behind it.
            if let Err(error) = file.must_be_plain() {
                self.faults.push(error.into_diagnostic()?);
                self.judged.insert(file.path.clone());
                continue;
            }
            if !manifest::is_manifest(&file.path) {
                continue;
            }
            objects.extend(self.manifest(file).await?);
        }
        let (units, faults) = manifest::units(objects);
        self.faults.extend(faults);
        Ok(units)
    }

    /// Looks from outside at what fabrik does not use itself (sops-nix has its own secrets), and for what should be
    /// encrypted. Returns the SOPS files that were not opened.
    pub async fn other_secrets(&mut self) -> Result<Vec<String>, SecretsError> {
        let checked = check(self.tree, None).await?;
        // Of whom a file is kept from, the cluster cares for itself alone.
        let closed = match self.access {
            Access::Cluster(_) | Access::InForce(_) => Vec::new(),
            Access::Person(_) | Access::NoKey => closed_to_some(self.tree)?,
        };
        let in_force = matches!(self.access, Access::InForce(_));
        let is_passed_over = |fault: &Diagnostic| {
            let file = &fault.place.file;
            self.judged.contains(file) || in_force && checked.exposed.contains(file)
        };
        let news = checked.diagnostics.into_iter();
        self.faults
            .extend(news.filter(|fault| !is_passed_over(fault)));
        // Who opened a file may well be the only one who can.
        self.faults.extend(closed);
        let paths = checked.files.into_iter().map(|(path, _)| path);
        Ok(paths.filter(|path| !self.opened.contains(path)).collect())
    }

    /// Keeps in memory what this commit needs, and nothing else.
    pub fn forget_unused(&self) {
        if let Access::Cluster(sops) | Access::InForce(sops) | Access::Person(sops) = self.access {
            sops.retain(&self.used);
        }
    }

    /// How many SOPS files were opened.
    pub fn opened(&self) -> usize {
        self.opened.len()
    }

    /// Encrypted manifests that were not opened and don't even show what they are called.
    pub fn unplanned(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unplanned)
    }

    /// All that is wrong, by place.
    pub fn into_faults(mut self) -> Vec<Diagnostic> {
        self.faults.sort();
        self.faults.dedup();
        self.faults
    }

    async fn manifest(&mut self, file: &File) -> Result<Vec<Object>, SecretsError> {
        let Some(content) = self.content(&file.path)? else {
            return Ok(Vec::new());
        };
        let encrypted = matches!(shape(&file.path, &content), Shape::Sops(_));
        let plaintext = if encrypted {
            let known = self.faults.len();
            match self.open(file, &content).await? {
                Some(plaintext) => plaintext,
                None if self.faults.len() > known => return Ok(Vec::new()),
                None => return Ok(self.outside_of(file, &content)),
            }
        } else {
            Secret::new(content.clone())
        };
        let Some(text) = plaintext.expose_str() else {
            self.not_utf8(&file.path, plaintext.expose());
            return Ok(Vec::new());
        };
        let source = Source {
            file: &file.path,
            text,
            encrypted: encrypted.then_some(content.as_slice()),
        };
        let (objects, faults) = manifest::parse(&source, &mut self.budget);
        self.faults.extend(faults);
        Ok(objects)
    }

    /// The objects of a manifest that is not opened, where their kinds and names are in the clear: all that a plan needs.
    /// Their values are encrypted, and nobody applies them.
    fn outside_of(&mut self, file: &File, content: &[u8]) -> Vec<Object> {
        let text = String::from_utf8_lossy(content);
        let source = Source {
            file: &file.path,
            text: &text,
            encrypted: Some(content),
        };
        let (objects, faults) = manifest::parse(&source, &mut self.budget);
        let hidden = |o: &Object| o.key.kind.starts_with("ENC[") || o.key.name.starts_with("ENC[");
        if faults.is_empty() && !objects.iter().any(hidden) {
            return objects;
        }
        self.unplanned.push(file.path.clone());
        Vec::new()
    }

    /// Opens a file that fabrik uses. `None` where that is a fault, or where we may not.
    pub(super) async fn open(
        &mut self,
        file: &File,
        content: &[u8],
    ) -> Result<Option<Secret>, SecretsError> {
        self.judged.insert(file.path.clone());
        let opened = match well_formed(&file.path, content) {
            Err(error) => Err(error),
            Ok(looks) => self.opened_by_us(file, content, &looks).await,
        };
        match opened {
            Ok(None) => Ok(None),
            Ok(Some(plaintext)) => {
                self.used.insert(file.blob);
                self.opened.insert(file.path.clone());
                Ok(Some(plaintext))
            }
            Err(error) => self.fault_of_secret(error).map(|()| None),
        }
    }

    /// What is wrong where a file is not in the repository, and the way out. `remedy` is that of a file that nobody wrote.
    pub(super) fn absent(&self, path: &str, remedy: String) -> (String, String) {
        if !self.tree.is_ignored(path) {
            return (format!("`{path}` is not in the repository"), remedy);
        }
        let problem = format!("`{path}` is in no commit: git ignores it");
        let remedy = format!(
            "take the rule out that `git check-ignore -v {path}` names, or `git add --force {path}`"
        );
        (problem, remedy)
    }

    pub(super) fn file(&self, path: &str) -> Option<File> {
        self.tree.file(path).cloned()
    }

    pub(super) fn faults_so_far(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn note(&mut self, fault: Diagnostic) {
        self.faults.push(fault);
    }

    async fn opened_by_us(
        &self,
        file: &File,
        content: &[u8],
        looks: &SopsFile,
    ) -> Result<Option<Secret>, SecretsError> {
        let (path, blob) = (&file.path, &file.blob);
        match self.access {
            Access::Cluster(sops) | Access::InForce(sops) => {
                sops.decrypt(path, blob, content).await.map(Some)
            }
            Access::Person(sops) => sops.decrypt_if_ours(path, blob, content, looks).await,
            Access::NoKey => Ok(None),
        }
    }

    /// A file's bytes; its kind and its size are the commit's business.
    pub(super) fn content(&mut self, path: &str) -> Result<Option<Vec<u8>>, SecretsError> {
        match self.tree.read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) => {
                self.faults.push(error.into_diagnostic()?);
                self.judged.insert(path.to_owned());
                Ok(None)
            }
        }
    }

    fn not_utf8(&mut self, path: &str, content: &[u8]) {
        let valid = content
            .utf8_chunks()
            .next()
            .map_or("", |chunk| chunk.valid());
        self.faults.push(Diagnostic {
            place: Place::of_offset(path, valid, valid.len()),
            object: path.to_owned(),
            problem: "is not text in UTF-8".to_owned(),
            remedy: "save it as UTF-8".to_owned(),
        });
    }

    pub(super) fn fault_of_secret(&mut self, error: SecretsError) -> Result<(), SecretsError> {
        self.faults.push(error.into_diagnostic()?);
        Ok(())
    }

    fn fault(&mut self, file: &str, object: &str, problem: &str, remedy: &str) {
        self.faults.push(Diagnostic {
            place: Place::file(file),
            object: object.to_owned(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }
}
