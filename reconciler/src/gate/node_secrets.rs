//! `[secrets]` of a commit: each value has to be in its file, where that may be opened.

use std::collections::{BTreeMap, BTreeSet};

use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::id::{PoolName, SecretName};
use fabrik_core::spec::{self, NodeSecret, Spec};

use super::reader::Reader;
use super::{NodeSecrets, SPEC_FILE};
use crate::secrets::{Secret, SecretsError, Shape, field, is_clear, shape};

/// What a pool's secrets may hold together: encrypted, they have to fit into one object of the API server.
const MAX_POOL_BYTES: usize = 256 * 1024;

impl Reader<'_> {
    /// The values that nodes are given, where they may be opened. `text` is that of `cluster.toml`.
    pub async fn node_secrets(
        &mut self,
        spec: &Spec,
        text: &str,
    ) -> Result<NodeSecrets, SecretsError> {
        let mut secrets = NodeSecrets::default();
        for (name, secret) in &spec.secrets {
            let found = self.node_secret(name, secret, text).await?;
            let Some((blob, value)) = found else {
                continue;
            };
            secrets.sources.insert(name.clone(), blob);
            secrets
                .values
                .extend(value.map(|value| (name.clone(), value)));
        }
        self.must_fit(spec, &secrets.values, text);
        Ok(secrets)
    }

    /// The blob that it is in, and its value where that may be opened. `None` where there is a fault.
    async fn node_secret(
        &mut self,
        name: &SecretName,
        secret: &NodeSecret,
        text: &str,
    ) -> Result<Option<(String, Option<Secret>)>, SecretsError> {
        let (path, key) = (&secret.source.file, &secret.source.key);
        let Some(file) = self.file(path) else {
            let remedy = format!("write the value into it as `{key}`, and encrypt it with sops");
            let (problem, remedy) = self.absent(path, remedy);
            self.fault_of(name, text, problem, remedy);
            return Ok(None);
        };
        let Some(content) = self.content(path)? else {
            return Ok(None);
        };
        let blob = file.blob.to_string();
        if shape(path, &content) == Shape::Plain {
            let problem = format!("`{path}` is in the clear");
            let remedy = format!(
                "encrypt it: `sops encrypt --in-place {path}`; if it was pushed before, replace what is in it too"
            );
            self.fault_of(name, text, problem, remedy);
            return Ok(None);
        }
        if is_clear(path, &content, key) {
            let problem =
                format!("`{key}` of `{path}` is in the clear: a rule of .sops.yaml leaves it out");
            let remedy = format!(
                "have a rule there that encrypts all of {path}, encrypt it anew, and replace the value if it was pushed"
            );
            self.fault_of(name, text, problem, remedy);
            return Ok(None);
        }
        let known = self.faults_so_far();
        let opened = self.open(&file, &content).await?;
        if self.faults_so_far() > known {
            return Ok(None);
        }
        // What a file's keys are called is in the clear.
        let plaintext = opened.clone().unwrap_or_else(|| Secret::new(content));
        match field(path, &plaintext, key) {
            Ok(value) => Ok(Some((blob, opened.map(|_| value)))),
            Err(error @ SecretsError::NoSuchField { .. }) => {
                self.fault_of_secret(error).map(|()| None)
            }
            Err(error) if opened.is_some() => self.fault_of_secret(error).map(|()| None),
            Err(_) => Ok(Some((blob, None))),
        }
    }

    fn must_fit(&mut self, spec: &Spec, values: &BTreeMap<SecretName, Secret>, text: &str) {
        let pools: BTreeSet<&PoolName> = spec.secrets.values().flat_map(|s| &s.pools).collect();
        for pool in pools {
            let of_pool = spec.secrets.iter().filter(|(_, s)| s.pools.contains(pool));
            let sizes = of_pool.filter_map(|(name, _)| {
                let bytes = values.get(name)?.expose().len();
                Some((bytes, name))
            });
            let sizes: Vec<(usize, &SecretName)> = sizes.collect();
            let all: usize = sizes.iter().map(|(bytes, _)| bytes).sum();
            if let Some((_, biggest)) = sizes.iter().max().filter(|_| all > MAX_POOL_BYTES) {
                let problem = format!("the nodes of pool {pool} get {all} bytes of secrets");
                let remedy = format!(
                    "{MAX_POOL_BYTES} is the most: encrypt what is big by a key, and give the nodes that"
                );
                self.fault_of(biggest, text, problem, remedy);
            }
        }
    }

    fn fault_of(&mut self, name: &SecretName, text: &str, problem: String, remedy: String) {
        self.note(Diagnostic {
            place: spec::place_of(SPEC_FILE, text, "secrets", name.as_str()),
            object: format!("[secrets.{name}]"),
            problem,
            remedy,
        });
    }
}
