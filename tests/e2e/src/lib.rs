//! What the end-to-end tests share: a cluster that fabrik runs, and how it is watched from outside.
//!
//! A test believes the API server, the emulator and git. What fabrik says is compared with them.

pub mod chaos;
pub mod etcd;
pub mod faults;
pub mod latency;
pub mod person;
pub mod random;
pub mod rolling;
pub mod search;
pub mod watch;
pub mod way;
pub mod writer;

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Bed, Options, audit, repository};
use serde_json::{Value, json};

pub use faults::LEADER;

/// What the emulator has of each kind that costs money or has a name.
pub const HETZNER_KINDS: [&str; 11] = [
    "servers",
    "images",
    "networks",
    "firewalls",
    "ssh_keys",
    "placement_groups",
    "primary_ips",
    "floating_ips",
    "load_balancers",
    "volumes",
    "certificates",
];
/// For what takes a moment: a few effects, on a machine that has other things to do.
pub const SOON: Duration = Duration::from_secs(90);
/// For a change of the number of workers, with faults in its way.
pub const RESIZED: Duration = Duration::from_secs(180);

/// A bed with a founded cluster in which `fabrik run` is up.
pub struct World {
    pub bed: Bed,
    pub cluster_id: String,
}

/// What a command line tool did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub async fn start(options: Options) -> Result<Self> {
        let bed = Bed::start(Options {
            fabrik: true,
            ..options
        })
        .await?;
        let cluster_id = bed.founding()?.cluster_id;
        Ok(Self { bed, cluster_id })
    }

    /// Pushes `cluster.toml` with one text in it replaced by another.
    pub fn push_edited(&self, from: &str, to: &str) -> Result<String> {
        let text = self.bed.git().read("cluster.toml")?;
        ensure!(text.contains(from), "cluster.toml has no `{from}`:\n{text}");
        self.bed
            .git()
            .write("cluster.toml", text.replacen(from, to, 1))?;
        self.bed
            .git()
            .commit_and_push(&format!("Have {to} instead of {from}"))
    }

    /// Encrypts by the real sops to those whom `.sops.yaml` names, and writes the result.
    pub fn write_secret(&self, path: &str, plain: &str) -> Result<()> {
        let git = self.bed.git();
        let encrypted = repository::sops_encrypt(git, self.bed.parts(), path, plain.as_bytes())?;
        git.write(path, encrypted)
    }

    pub fn fabrik(&self, arguments: &[&str]) -> Result<Ran> {
        Ran::of(self.bed.fabrik_cmd(arguments)?)
    }

    /// One object by kubectl, as JSON.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let arguments = [&["get", "-o", "json"], what].concat();
        Ok(serde_json::from_str(&self.bed.kubectl(&arguments)?)?)
    }

    /// Whether kubectl finds it.
    pub fn exists(&self, what: &[&str]) -> Result<bool> {
        let arguments = [&["get", "-o", "name", "--ignore-not-found"], what].concat();
        Ok(!self.bed.kubectl(&arguments)?.trim().is_empty())
    }

    /// Applies what a user made, not fabrik.
    pub fn kubectl_apply(&self, manifest: &str) -> Result<()> {
        let file = self.bed.dir().join("by-hand.yaml");
        std::fs::write(&file, manifest)?;
        let file = file.to_str().context("a path in UTF-8")?;
        self.bed.kubectl(&["apply", "-f", file]).map(drop)
    }

    /// The emulator's whole state.
    pub async fn hetzner(&self) -> Result<Value> {
        self.emulator("/_emulator/state").await
    }

    /// What the API of the emulator was asked for after request number `since`.
    pub async fn requests(&self, since: u64) -> Result<Vec<Value>> {
        let answer = self
            .emulator(&format!("/_emulator/requests?since={since}"))
            .await?;
        Ok(list(&answer, "requests"))
    }

    pub async fn last_request(&self) -> Result<u64> {
        let answer = self.emulator("/_emulator/requests").await?;
        answer["last"].as_u64().context("no number")
    }

    /// Requests after number `since` that change something.
    pub async fn writes(&self, since: u64) -> Result<Vec<Value>> {
        let mut requests = self.requests(since).await?;
        requests.retain(|request| request["method"] != "GET");
        Ok(requests)
    }

    pub async fn server_events(&self) -> Result<Vec<Value>> {
        let answer = self.emulator("/_emulator/events").await?;
        Ok(list(&answer, "events"))
    }

    pub async fn set_tokens(&self, tokens: &[&str]) -> Result<()> {
        let url = format!("{}/_emulator/settings", self.bed.emulator_url());
        let put = client()?.put(url).json(&json!({"tokens": tokens}));
        put.send().await?.error_for_status()?;
        Ok(())
    }

    /// The workers of this cluster that exist at the emulator.
    pub async fn workers(&self) -> Result<Vec<Value>> {
        let mut servers = list(&self.hetzner().await?, "servers");
        servers.retain(|server| {
            let labels = &server["labels"];
            labels["fabrik.dev/cluster"] == self.cluster_id.as_str()
                && labels["fabrik.dev/role"] == "agent"
        });
        Ok(servers)
    }

    /// Waits until exactly `count` workers exist at the emulator and their Nodes, and no others, are
    /// ready at the API server; returns the servers.
    pub async fn workers_ready(&self, count: usize) -> Result<Vec<Value>> {
        let what = format!("{count} workers have joined");
        self.bed
            .wait_until(&what, SOON, async || {
                let workers = self.workers().await?;
                let mut names: Vec<_> = workers.iter().map(name).collect();
                let mut nodes = self.ready_workers().await?;
                names.sort();
                nodes.sort();
                ensure!(
                    names.len() == count && names == nodes,
                    "servers {names:?}, ready Nodes {nodes:?}"
                );
                Ok(Some(workers))
            })
            .await
    }

    async fn ready_workers(&self) -> Result<Vec<String>> {
        let workers = "/api/v1/nodes?labelSelector=%21node-role.kubernetes.io%2Fcontrol-plane";
        let nodes = list(&self.bed.read(workers).await?, "items");
        let ready = |node: &&Value| {
            let conditions = list(&node["status"], "conditions");
            let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
            conditions.iter().any(is_ready)
        };
        let names = nodes.iter().filter(ready).map(|n| name(&n["metadata"]));
        Ok(names.collect())
    }

    /// Waits until the cluster object says of a commit that it is carried out. It may have to be evaluated and built first.
    pub async fn carried_out(&self, commit: &str) -> Result<()> {
        let what = format!("{commit} is carried out");
        let says = |status: &Value| status["appliedCommit"] == commit;
        self.status_says_within(RESIZED, &what, says)
            .await
            .map(drop)
    }

    /// Waits until the cluster object says that this commit is refused.
    pub async fn refused(&self, commit: &str) -> Result<Value> {
        self.status_says(&format!("{commit} is refused"), |status| {
            status["refused"]["commit"] == commit
        })
        .await
    }

    pub async fn status_says(&self, what: &str, says: impl Fn(&Value) -> bool) -> Result<Value> {
        self.status_says_within(SOON, what, says).await
    }

    pub async fn status_says_within(
        &self,
        limit: Duration,
        what: &str,
        says: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.bed
            .wait_until(what, limit, async || {
                let status = self.status().await?;
                ensure!(says(&status), "{status:#}");
                Ok(Some(status))
            })
            .await
    }

    /// Waits until the first server's replica knows that it is paused.
    pub async fn paused(&self) -> Result<()> {
        let url = page_url(&self.bed, "metrics")?;
        self.bed
            .wait_until("the leader has heard of the pause", SOON, async || {
                let text = client()?.get(&url).send().await?.text().await?;
                Ok(text.lines().any(|l| l == "fabrik_paused 1").then_some(()))
            })
            .await
    }

    pub async fn status(&self) -> Result<Value> {
        let cluster = &self.bed.options().cluster;
        let path = format!("/apis/fabrik.dev/v1alpha1/fabrikclusters/{cluster}");
        Ok(self.bed.read(&path).await?["status"].take())
    }

    /// What `kubectl describe` prints, without its line breaks and indents.
    pub fn described(&self) -> Result<String> {
        let text = self.bed.kubectl(&["describe", "fabrikcluster"])?;
        Ok(words(&text))
    }

    /// All finished requests to all API servers, in the order of their arrival.
    pub fn audit(&self) -> Result<Vec<audit::Event>> {
        let mut all = Vec::new();
        for server in 0..self.bed.servers().len() {
            all.extend(self.bed.audit(server)?);
        }
        all.retain(|event| event.stage == "ResponseComplete");
        all.sort_by_key(|event| event.request_received_timestamp);
        Ok(all)
    }

    async fn emulator(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.bed.emulator_url());
        Ok(client()?.get(url).send().await?.json().await?)
    }
}

impl Ran {
    pub fn of(mut command: Command) -> Result<Self> {
        let output = command.stdin(Stdio::null()).output()?;
        Ok(Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What a verb printed that succeeded.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == Some(0), "it failed: {self:?}");
        Ok(self.stdout)
    }
}

/// Writes another count of the only pool into `cluster.toml`.
pub fn set_count(bed: &Bed, from: u32, to: u32) -> Result<()> {
    let spec = bed.git().read("cluster.toml")?;
    let resized = spec.replace(&format!("count = {from}"), &format!("count = {to}"));
    ensure!(spec != resized, "the pool's count is not {from}");
    bed.git().write("cluster.toml", resized)
}

/// Pushes another count of the only pool; returns the commit.
pub fn resize(bed: &Bed, from: u32, to: u32) -> Result<String> {
    set_count(bed, from, to)?;
    bed.git().commit_and_push(&format!("Have {to} workers"))
}

/// What the leader has written down.
pub async fn ledger(bed: &Bed) -> Result<Value> {
    let path = "/apis/fabrik.dev/v1alpha1/fabrikledgers/ledger";
    Ok(bed.read(path).await?["spec"].take())
}

/// Waits until `count` workers are members and at the emulator, and nothing is under way.
pub async fn settled(bed: &Bed, count: usize) -> Result<()> {
    let what = format!("{count} workers are members");
    bed.wait_until(&what, RESIZED, async || {
        let ledger = ledger(bed).await?;
        let length = |key: &str| ledger[key].as_object().map_or(0, serde_json::Map::len);
        let still = length("intents") + length("tickets") == 0 && workers_of(&ledger) == count;
        let workers = faults::workers(bed).await?;
        ensure!(
            still && workers.len() == count,
            "ledger {ledger}, servers {workers:?}"
        );
        Ok(Some(()))
    })
    .await
}

/// How many of the members that the leader has written down are workers.
pub fn workers_of(ledger: &Value) -> usize {
    let members = ledger["members"].as_object();
    let members = members.into_iter().flat_map(serde_json::Map::values);
    members.filter(|m| m["role"] == "agent").count()
}

/// A page of the first server's replica.
pub fn page_url(bed: &Bed, page: &str) -> Result<String> {
    let config = std::fs::read_to_string(bed.founding()?.config)?;
    let listen = config.lines().find_map(|l| l.strip_prefix("listen = "));
    let listen = listen.context("no listen address")?.trim_matches('"');
    Ok(format!("http://{listen}/{page}"))
}

/// A list in a document; a missing one is empty.
pub fn list(document: &Value, key: &str) -> Vec<Value> {
    document[key].as_array().cloned().unwrap_or_default()
}

/// The `name` in an object.
pub fn name(object: &Value) -> String {
    object["name"].as_str().unwrap_or_default().to_owned()
}

/// A text with each run of white space as one blank.
pub fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// For the emulator. Made once, which takes a while; connections are not kept, as each test has a runtime of its own.
fn client() -> Result<&'static reqwest::Client> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    let builder = reqwest::Client::builder().no_proxy();
    let client = builder.pool_max_idle_per_host(0).build()?;
    Ok(CLIENT.get_or_init(|| client))
}

/// A ConfigMap in the namespace `default`.
pub fn config_map(name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: default\n\
         data:\n  value: {value}\n"
    )
}
