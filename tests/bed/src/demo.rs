//! `bed demo`: a cluster's life, played before the user's eyes, a file a chapter. Each checks its own claim at the API server and
//! at the emulator; a claim that does not hold ends the demo with an error and the ends of the logs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::stage::{say, title};
use crate::Bed;
use crate::laptop::Laptop;

mod fail_over;
mod founded;
mod grow;
mod look;
mod manifests;
mod refuse;
mod rolling;
mod seed;
mod shrink;
mod stage;

/// Plays the demo, and returns the bed as it is then.
pub async fn run() -> Result<Bed> {
    title("A cluster that follows a git repository");
    say("Starting a git server and an emulator of Hetzner's API …");
    let is_root = rustix::process::geteuid().is_root();
    let options = if is_root {
        seed::options()
    } else {
        founded::options()
    };
    let mut bed = Bed::start(options).await?;
    let began = Instant::now();
    if let Err(error) = play(&mut bed, is_root).await {
        let logs = keep_logs(&bed)?;
        let told = format!("a claim of the demo does not hold; the logs are in {logs}");
        return Err(error.context(told));
    }
    summary(began.elapsed());
    Ok(bed)
}

async fn play(bed: &mut Bed, is_root: bool) -> Result<()> {
    if is_root {
        seed::first_server(bed).await?;
        seed::other_servers(bed).await?;
    } else {
        founded::begin(bed)?;
    }
    grow::grow(bed).await?;
    shrink::shrink(bed).await?;
    manifests::keep(bed).await?;
    refuse::refuse(bed).await?;
    fail_over::fail_over(bed).await?;
    if is_root {
        rolling::upgrade(bed).await?;
        rolling::fall_back(bed).await?;
    }
    Ok(())
}

/// Where to look in a bed that is left running.
pub fn look_around(bed: &Bed) -> Result<()> {
    title("It is all still running. Look around, and push; Ctrl-C takes it down");
    let path = crate::fabrik::path_of_tools(bed.parts());
    let age_key = match bed.servers().first() {
        Some(server) => server.fabrik.dir().join("age.key"),
        None => Laptop::new(bed)?.age_key(),
    };
    for line in [
        format!("export PATH={}:$PATH", path.display()),
        format!("export KUBECONFIG={}", bed.kubeconfig().display()),
        format!("export SOPS_AGE_KEY_FILE={}", age_key.display()),
        format!(
            "cd {}                # edit, commit, git push",
            bed.git().dir().display()
        ),
        "fabrik status --watch".to_owned(),
        "kubectl get fabrik,nodes,pods".to_owned(),
    ] {
        println!("  {line}");
    }
    say(&format!("Hetzner: {}/_emulator/state", bed.emulator_url()));
    say(&format!("Logs: {}", bed.logs().display()));
    Ok(())
}

/// The bed takes its own folder down.
fn keep_logs(bed: &Bed) -> Result<String> {
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/demo-logs");
    std::fs::create_dir_all(&logs)?;
    let logs = logs.canonicalize()?;
    for log in std::fs::read_dir(bed.logs())? {
        let log = log?;
        std::fs::copy(log.path(), logs.join(log.file_name()))?;
    }
    Ok(logs.display().to_string())
}

fn summary(took: Duration) {
    title(&format!("That was it, in {:.0} s", took.as_secs_f64()));
    say(
        "Real:      fabrik, git and its pushes, SSH, sops and age, three etcd members, three Kubernetes control planes, Nix,",
    );
    say(
        "           the scheduler, evictions and PodDisruptionBudgets, server-side apply; KWOK played the pods.",
    );
    say(
        "Stand-ins: Hetzner (an emulator that hcloud-python accepts), the machines behind its servers and their boot",
    );
    say("           loaders, nixos-rebuild, and k3s. No NixOS was installed.");
}
