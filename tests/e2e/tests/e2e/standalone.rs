//! A cluster that has no project at Hetzner: its server, which a person founded, follows the repository all the same. And one
//! that had a project: nothing there is believed gone because nobody can ask.

use anyhow::{Result, ensure};
use fabrik_bed::{Options, Transport};
use fabrik_e2e::{World, config_map, list};

const PROJECT: &str = "[hetzner]\ntoken = { file = \"secrets/hetzner.yaml\", key = \"token\" }\n";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_project_hetzner_is_not_asked_and_nothing_there_is_taken_for_gone() -> Result<()>
{
    let world = World::start(Options {
        transport: Transport::Path,
        ..Options::default()
    })
    .await?;
    let git = world.bed.git();
    world.bed.write_default_repo(1)?;
    let whole = git.read("cluster.toml")?;
    ensure!(whole.contains(PROJECT), "{whole}");
    let without = whole.replace(PROJECT, "");
    let without = without.split("[pools").next().unwrap_or_default();
    git.write("cluster.toml", without)?;
    git.write("manifests/shop/all.yaml", config_map("shop", "one"))?;
    let since = world.last_request().await?;
    let commit = git.commit_and_push("Begin without a project")?;
    world.carried_out(&commit).await?;
    assert_eq!(world.get(&["configmap", "shop"])?["data"]["value"], "one");
    world
        .status_says("nothing waits", |status| list(status, "holds").is_empty())
        .await?;
    assert_eq!(world.requests(since).await?.len(), 0);

    git.write("cluster.toml", &whole)?;
    git.commit_and_push("Have a worker at Hetzner")?;
    world.workers_ready(1).await?;

    git.write("cluster.toml", without)?;
    let commit = git.commit_and_push("Name the project no more")?;
    world
        .status_says("its worker is told of", |status| {
            let told = status["holds"]
                .to_string()
                .contains("cluster.toml has no [hetzner]");
            status["admittedCommit"] == commit.as_str() && told
        })
        .await?;
    let since = world.last_request().await?;
    git.write("manifests/shop/all.yaml", config_map("shop", "two"))?;
    git.commit_and_push("Go on")?;
    let applied = async || {
        let value = world.get(&["configmap", "shop"])?["data"]["value"] == "two";
        Ok(value.then_some(()))
    };
    let what = "manifests go on";
    world
        .bed
        .wait_until(what, fabrik_e2e::SOON, applied)
        .await?;
    assert_eq!(world.requests(since).await?.len(), 0);
    world.workers_ready(1).await?;

    git.write("cluster.toml", whole.replace("count = 1", "count = 0"))?;
    git.commit_and_push("Let the worker go, with its project")?;
    world.workers_ready(0).await?;
    world.bed.shutdown().await;
    Ok(())
}
