//! `bed demo`: the main job, played before the user's eyes. Each step checks its own claim at the API server and at the
//! emulator; a claim that does not hold ends the demo with an error and the ends of the logs.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::parts::{FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION};
use crate::{Bed, Options};

mod look;
mod rolling;

const DEADLINE: Duration = Duration::from_secs(90);

const SHOP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default, labels: {app: shop}}
spec:
  replicas: 6
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      nodeSelector: {fabrik.dev/pool: workers}
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule,
           labelSelector: {matchLabels: {app: shop}}}
      containers: [{name: shop, image: registry.example/shop:1}]
";
/// A public key whose private half nobody has.
const SSH_KEYS: &str = "\
[ssh-keys]
you = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINYc7UlG1J1PLOiVc5lsUMlhSaQnnggS7yAi3ZyI7ENy you\"
";
const BUDGET: &str = "\
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop, namespace: default}
spec: {minAvailable: 6, selector: {matchLabels: {app: shop}}}
";
const SETTINGS: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: default}
data: {colour: blue}
";

/// Plays the demo, and returns the bed as it is then.
pub async fn run() -> Result<Bed> {
    let began = Instant::now();
    title("A cluster that follows a git repository");
    say(
        "Starting three servers (etcd, API server, controller manager and scheduler each), a git server,",
    );
    say(
        "an emulator of Hetzner's API, and `fabrik run` on each server. This takes about a minute.",
    );
    // Machines build into Nix stores of their own, which takes root.
    let systems = rustix::process::geteuid().is_root();
    let kubernetes_version = if systems {
        FORMER_KUBERNETES_VERSION
    } else {
        KUBERNETES_VERSION
    };
    let bed = Bed::start(Options {
        servers: 3,
        fabrik: true,
        webhooks: true,
        systems,
        kubernetes_version: kubernetes_version.to_owned(),
        other_kubernetes_versions: vec![KUBERNETES_VERSION.to_owned()],
        ..Options::default()
    })
    .await?;
    say(&format!("Up after {:.0} s.", began.elapsed().as_secs_f64()));
    if let Err(error) = play(&bed).await {
        let logs = keep_logs(&bed)?;
        let told = format!("a claim of the demo does not hold; the logs are in {logs}");
        return Err(error.context(told));
    }
    summary(began.elapsed());
    Ok(bed)
}

/// Where to look in a bed that is left running.
pub fn look_around(bed: &Bed) {
    title("It is all still running. Look around, and push; Ctrl-C takes it down");
    let server = bed.fabrik(0).dir();
    let path = crate::fabrik::path_of_tools(bed.parts());
    for line in [
        format!("export PATH={}:$PATH", path.display()),
        format!("export KUBECONFIG={}", bed.kubeconfig().display()),
        format!(
            "export SOPS_AGE_KEY_FILE={}",
            server.join("age.key").display()
        ),
        format!(
            "cd {}                # edit, commit, git push",
            bed.git().dir().display()
        ),
        "fabrik status --watch".to_owned(),
        "kubectl get fabrik,nodes,pods".to_owned(),
    ] {
        println!("  {line}");
    }
    say(&format!(
        "Hetzner: {}/_emulator/state; a server's configuration: {}",
        bed.emulator_url(),
        server.join("config.toml").display()
    ));
    say(&format!("Logs: {}", bed.logs().display()));
}

async fn play(bed: &Bed) -> Result<()> {
    grow(bed).await?;
    shrink(bed).await?;
    keep_manifests(bed).await?;
    refuse(bed).await?;
    fail_over(bed).await?;
    if !bed.options().systems {
        say(
            "Points 6 and 7 (a rolling upgrade, and a system that does not boot) are played for root only.",
        );
        return Ok(());
    }
    rolling::upgrade(bed).await?;
    rolling::fall_back(bed).await
}

async fn grow(bed: &Bed) -> Result<()> {
    title("1. A push makes servers, and applies manifests");
    bed.default_repo(0)?;
    carried_out(bed)?;
    set_count(bed, 3)?;
    let spec = bed.git().read("cluster.toml")?;
    bed.git()
        .write("cluster.toml", format!("{spec}\n{SSH_KEYS}"))?;
    bed.git().write("manifests/shop/deployment.yaml", SHOP)?;
    bed.git().write("manifests/shop/budget.yaml", BUDGET)?;
    bed.git().write("manifests/shop/settings.yaml", SETTINGS)?;
    say(
        "cluster.toml now asks for 3 workers, and manifests/shop/ holds a small shop. What will that do?",
    );
    let plan = fabrik(bed, &["plan", &dir(bed), "--observed", &observed(bed)])?;
    ensure!(
        plan.contains("3 × create"),
        "the plan does not name the three servers"
    );
    push(bed, "Three workers and a shop")?;
    let began = Instant::now();
    look::workers(bed, 3, DEADLINE).await?;
    look::pods_running(bed, 6, DEADLINE).await?;
    carried_out(bed)?;
    // Those who came first to the first node move over, so that each worker has a part of the shop.
    look::spread(bed, DEADLINE).await?;
    let made = look::made_at_hetzner(bed).await?;
    say(&format!(
        "3 nodes have joined and 6 pods run, {:.1} s after the push.",
        began.elapsed().as_secs_f64()
    ));
    say(&format!("At Hetzner (asked there, not at fabrik): {made}."));
    fabrik(bed, &["status"]).map(drop)
}

async fn shrink(bed: &Bed) -> Result<()> {
    title("2. A smaller count: cordon, drain, power off, delete");
    say("The shop's PodDisruptionBudget allows no pod to go. Watch what a push of 2 workers does:");
    set_count(bed, 2)?;
    push(bed, "Two workers do")?;
    let status = bed
        .wait_until(
            "the drain is blocked and the budget named",
            DEADLINE,
            async || {
                let status = bed.fabrik_cmd(&["status"])?.output()?;
                let status = String::from_utf8(status.stdout)?;
                Ok(status
                    .contains("PodDisruptionBudget default/shop")
                    .then_some(status))
            },
        )
        .await?;
    shown("fabrik status", &status);
    look::workers(bed, 3, DEADLINE)
        .await
        .context("nothing may be deleted while the budget blocks")?;
    say(
        "Nothing was deleted, and the one in the way is named. Now the budget is lowered, by a push as well:",
    );
    bed.git().write(
        "manifests/shop/budget.yaml",
        BUDGET.replace("minAvailable: 6", "minAvailable: 4"),
    )?;
    let since = look::last_event(bed).await?;
    push(bed, "Let two pods of the shop move at a time")?;
    look::workers(bed, 2, DEADLINE).await?;
    carried_out(bed)?;
    look::pods_running(bed, 6, DEADLINE).await?;
    let order = look::order_of_departure(bed, since).await?;
    say(&format!(
        "The order, from Hetzner's and the API server's own records: {order}."
    ));
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

async fn keep_manifests(bed: &Bed) -> Result<()> {
    title("3. What is in git is in the cluster");
    say("Somebody changes the settings by hand …");
    kubectl(
        bed,
        &[
            "patch",
            "configmap",
            "settings",
            "--type=merge",
            "-p",
            r#"{"data":{"colour":"red"}}"#,
        ],
    )?;
    let began = Instant::now();
    look::colour(bed, Some("blue"), DEADLINE).await?;
    say(&format!(
        "… and it is blue again {} ms later.",
        began.elapsed().as_millis()
    ));
    bed.git().remove("manifests/shop/settings.yaml")?;
    push(bed, "The shop needs no settings")?;
    look::colour(bed, None, DEADLINE).await?;
    say("The manifest was removed from git, so its object was pruned; nothing else was touched.");
    look::pods_running(bed, 6, DEADLINE).await
}

async fn refuse(bed: &Bed) -> Result<()> {
    title("4. Nonsense changes nothing, and says why");
    let good = bed.git().head()?;
    let spec = bed.git().read("cluster.toml")?;
    bed.git().write(
        "cluster.toml",
        spec.replace("count = 2", "count = -2\nserver-typs = [\"cx21\"]"),
    )?;
    bed.git().write(
        "manifests/shop/broken.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: [}\n",
    )?;
    say(
        "Two files with mistakes. `fabrik validate` finds them before a push, the leader after it:",
    );
    fabrik_fails(bed, &["validate", &dir(bed)])?;
    push(bed, "Three mistakes at once")?;
    refused(bed).await?;
    look::workers(bed, 2, DEADLINE).await?;
    say(
        "Still 2 workers: the last good commit stays in force. Rewinding the branch is refused too:",
    );
    bed.git()
        .git(&["reset", "-q", "--hard", &format!("{good}~1")])?;
    bed.git().force_push()?;
    refused(bed).await?;
    bed.git().git(&["reset", "-q", "--hard", &good])?;
    bed.git().git(&[
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "Go on from the last good commit",
    ])?;
    bed.git().force_push()?;
    carried_out(bed)
}

async fn fail_over(bed: &Bed) -> Result<()> {
    title("5. The leader dies in the middle of its work");
    let leader = look::leader(bed).await?;
    set_count(bed, 4)?;
    push(bed, "Four workers")?;
    look::intended(bed, DEADLINE).await?;
    say(&format!(
        "Two servers are wanted; now fabrik on {} is killed (SIGKILL).",
        bed.control_plane(leader).name()
    ));
    bed.fabrik(leader).kill();
    let began = Instant::now();
    look::workers(bed, 4, DEADLINE).await?;
    let heir = look::leader(bed).await?;
    ensure!(heir != leader, "nobody took over");
    look::nothing_left_over(bed, DEADLINE).await?;
    say(&format!(
        "{} went on: 4 workers {:.1} s later, none twice, and no join token is left over.",
        bed.control_plane(heir).name(),
        began.elapsed().as_secs_f64()
    ));
    bed.fabrik(leader).start()?;
    carried_out(bed)?;
    fabrik(bed, &["status"]).map(drop)
}

fn summary(took: Duration) {
    title(&format!("That was it, in {:.0} s", took.as_secs_f64()));
    say(
        "Real:      fabrik, git and its pushes, sops and age, three etcd members, three Kubernetes control planes, Nix,",
    );
    say(
        "           the scheduler, evictions and PodDisruptionBudgets, server-side apply; KWOK played the pods.",
    );
    say(
        "Stand-ins: Hetzner (an emulator that hcloud-python accepts), the machines behind its servers and their boot",
    );
    say(
        "           loaders, nixos-rebuild, and the k3s supervisor that they join through. No NixOS was installed.",
    );
}

fn set_count(bed: &Bed, count: u32) -> Result<()> {
    let spec = bed.git().read("cluster.toml")?;
    let resize = |line: &str| {
        if line.starts_with("count = ") {
            format!("count = {count}")
        } else {
            line.to_owned()
        }
    };
    let lines: Vec<String> = spec.lines().map(resize).collect();
    bed.git().write("cluster.toml", &(lines.join("\n") + "\n"))
}

fn push(bed: &Bed, message: &str) -> Result<()> {
    command(&format!("git commit -am '{message}' && git push"));
    bed.git().commit_and_push(message).map(drop)
}

async fn refused(bed: &Bed) -> Result<()> {
    let head = bed.git().head()?;
    let short = head.get(..8).unwrap_or(&head).to_owned();
    let status = bed
        .wait_until("the refusal is told", DEADLINE, async || {
            let status = String::from_utf8(bed.fabrik_cmd(&["status"])?.output()?.stdout)?;
            let told = status.contains(&short) && status.to_lowercase().contains("refused");
            Ok(told.then_some(status))
        })
        .await?;
    shown("fabrik status", &status);
    Ok(())
}

fn carried_out(bed: &Bed) -> Result<()> {
    let head = bed.git().head()?;
    fabrik(bed, &["wait", &head, "--timeout", "90s"]).map(drop)
}

fn fabrik(bed: &Bed, arguments: &[&str]) -> Result<String> {
    let output = bed.fabrik_cmd(arguments)?.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    shown(&format!("fabrik {}", arguments.join(" ")), &text);
    ensure!(
        output.status.success(),
        "it failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn fabrik_fails(bed: &Bed, arguments: &[&str]) -> Result<()> {
    let output = bed.fabrik_cmd(arguments)?.output()?;
    let text = [output.stdout, output.stderr].concat();
    shown(
        &format!("fabrik {}", arguments.join(" ")),
        &String::from_utf8_lossy(&text),
    );
    ensure!(!output.status.success(), "it should have failed");
    Ok(())
}

fn kubectl(bed: &Bed, arguments: &[&str]) -> Result<()> {
    let text = bed.kubectl(arguments)?;
    shown(&format!("kubectl {}", arguments.join(" ")), &text);
    Ok(())
}

fn dir(bed: &Bed) -> String {
    bed.git().dir().display().to_string()
}

fn observed(bed: &Bed) -> String {
    format!("http://{}:9640/observed", bed.control_plane(0).address())
}

fn shown(line: &str, output: &str) {
    command(line);
    for line in output.lines() {
        println!("    {line}");
    }
}

fn title(text: &str) {
    println!("\n{}", styled("1;36", text));
}

fn command(text: &str) {
    println!("  {}", styled("1", &format!("$ {text}")));
}

fn say(text: &str) {
    println!("  {text}");
}

fn styled(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
