//! What stands in for `fabrik run` in its unit, where no API server makes it a leader: by the product's own code it follows
//! the repository, makes the systems of each commit, and leaves in its state directory what came of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use fabrik::build::{Builder, Builds, Origin, Request};
use fabrik::config::Config;
use fabrik::repo::Repository;
use fabrik_core::spec;
use serde_json::json;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<()> {
    let file = std::env::args().nth(1).context("no configuration")?;
    let config = Config::load(Path::new(&file))?;
    let nix = config.nix.as_ref().context("no [nix]")?;
    let clone = config.state_dir.join("repository");
    let repository = Repository::open(config.repository.clone(), &clone)?;
    let builder = Builder::new(nix, &config.state_dir, config.cluster.id.clone())?;
    let (ask, requests) = watch::channel(None);
    let (tell, mut builds) = watch::channel(Builds::default());
    tokio::spawn(async move { builder.run(requests, tell).await });
    loop {
        let commit = repository.fetch().await?;
        repository.pin(&commit)?;
        let request = Request {
            origin: Origin {
                clone: repository.clone_dir()?,
                commit: commit.clone(),
            },
            sequence: 1,
            pools: ["workers".parse()?].into(),
            settings: spec::Nix::default(),
            servers_run: None,
        };
        ask.send_replace(Some(Arc::new(request)));
        let settled = |b: &Builds| b.commit.as_ref() == Some(&commit) && b.is_settled();
        let answer = {
            let builds = builds.wait_for(settled).await?;
            let held: Vec<_> = builds
                .holds(&commit)
                .into_iter()
                .map(|h| h.message)
                .collect();
            let targets = builds.targets(&commit);
            let systems: Vec<_> = targets.values().map(|t| t.system.output.as_str()).collect();
            json!({"held": held, "systems": systems}).to_string()
        };
        let written = config.state_dir.join("answer");
        fs::write(&written, answer)?;
        fs::rename(&written, config.state_dir.join(format!("{commit}.json")))?;
        tokio::time::sleep(repository.config().poll).await;
    }
}
