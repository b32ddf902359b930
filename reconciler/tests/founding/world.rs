//! A bed without fabrik, and `fabrik found` with the command line's own defaults.

use std::path::PathBuf;

use clap::Parser as _;
use fabrik::cli::{Cli, Verb};
use fabrik::cluster::{FoundError, Founded, found};
use fabrik::secrets::founding_keys;
use fabrik_bed::{Bed, Options};
use kube::Client;

pub struct World {
    pub bed: Bed,
}

impl World {
    pub async fn start() -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let bed = Bed::start(Options::default()).await.unwrap();
        Self { bed }
    }

    /// `fabrik found` into a folder of the bed's.
    pub async fn found(&self, dir: &str, name: &str, node: &str) -> Result<Founded, FoundError> {
        self.found_with(dir, name, node, &[]).await
    }

    /// The same, with more flags.
    pub async fn found_with(
        &self,
        dir: &str,
        name: &str,
        node: &str,
        flags: &[&str],
    ) -> Result<Founded, FoundError> {
        let kubeconfig = self.bed.kubeconfig();
        let dir = self.path(dir);
        let arguments = [
            ("--kubeconfig", kubeconfig.to_str().unwrap()),
            ("--dir", dir.to_str().unwrap()),
            ("--name", name),
            ("--node", node),
            ("--repository", "https://git.example.com/demo.git"),
        ];
        let told = |(key, _): &(&str, &str)| !flags.contains(key);
        let arguments = arguments.into_iter().filter(told);
        let arguments = arguments.flat_map(|(key, value)| [key, value]);
        let arguments = arguments.chain(flags.iter().copied());
        let Verb::Found(options) =
            Cli::parse_from(["fabrik", "found"].into_iter().chain(arguments)).verb
        else {
            unreachable!()
        };
        found(*options).await
    }

    /// Makes the keys of a server, and gives their age key to another one.
    pub fn share_age_key(&self, from: &str, to: &str) {
        let name = "demo".parse().unwrap();
        for dir in [from, to] {
            std::fs::create_dir_all(self.path(dir)).unwrap();
        }
        founding_keys::ensure(&self.path(from), &name).unwrap();
        let key = |dir: &str| self.path(dir).join(founding_keys::AGE_KEY_FILE);
        std::fs::copy(key(from), key(to)).unwrap();
    }

    pub fn path(&self, dir: &str) -> PathBuf {
        self.bed.dir().join("founding-test").join(dir)
    }

    /// The kubelet of a node.
    pub async fn node(&self, name: &str) -> Client {
        let user = format!("system:node:{name}");
        let client = self.bed.kube_for(&user, Some("system:nodes")).await;
        client.unwrap()
    }

    pub async fn end(self) {
        self.bed.shutdown().await;
    }
}
