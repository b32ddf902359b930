//! The secrets of a seed, taken where it has them while it goes on, and looked for everywhere else.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fabrik_bed::Bed;
use fabrik_bed::emulator::TOKEN;
use fabrik_e2e::person::Person;
use fabrik_e2e::search::{find, forms, in_the_cluster, leaks, without_user_data};
use fabrik_e2e::watch::Sample;
use fabrik_e2e::{Ran, SOON, World, list};
use serde_json::{Value, json};

/// What a laptop has of a seed that is under way.
const KEYS: [&str; 6] = [
    "deploy.key",
    "first-host.key",
    "k3s.token",
    "signing.key",
    "temporary.key",
    "webhook.secret",
];
/// In user data, where it is worth nothing after the first boot.
const TOLD: &str = "first-host.key";
/// What a server has of them, below its root.
const OF_SERVERS: [&str; 3] = [
    "etc/fabrik/",
    "var/lib/fabrik-identity/",
    "var/lib/rancher/k3s/server/token",
];
/// What the person has.
const OF_PERSON: [&str; 2] = ["laptop/token", "laptop/.config/sops/"];

#[derive(Default)]
pub struct Planted {
    /// The part of each that nothing else has.
    values: BTreeMap<String, Vec<u8>>,
    temporary_key: Option<Vec<u8>>,
}

impl Planted {
    /// Takes what the laptop's folder has now.
    pub fn laptop(&mut self, state: &Path) -> Result<()> {
        for key in KEYS {
            let Ok(content) = fs::read(state.join(key)) else {
                continue;
            };
            if key == "temporary.key" {
                self.temporary_key = Some(content.clone());
            }
            self.take(key, &content)?;
        }
        Ok(())
    }

    /// And what the person has who seeds, by their own key.
    pub fn person(&mut self, bed: &Bed, person: &Person) -> Result<()> {
        self.take("Hetzner's token", TOKEN.as_bytes())?;
        let own = fs::read(person.laptop.age_key())?;
        self.take("the person's age key", &own)?;
        let open = ["secrets", "decrypt", "secrets/age.key"];
        let cluster = Ran::of(person.command(bed, &open)?)?.ok()?;
        self.take("the cluster's age key", cluster.as_bytes())?;
        for key in KEYS {
            ensure!(self.values.contains_key(key), "the laptop had no {key}");
        }
        Ok(())
    }

    fn take(&mut self, name: &str, content: &[u8]) -> Result<()> {
        // The last of the longest lines that are no comment or frame: of a key in OpenSSH's format it has the private half.
        let lines = content.split(|b| *b == b'\n');
        let lines = lines.filter(|l| !l.starts_with(b"#") && !l.starts_with(b"-----"));
        let line = lines.max_by_key(|l| l.len()).context("an empty file")?;
        ensure!(
            line.len() >= 16,
            "{name} has no secret that could be recognised"
        );
        self.values.insert(name.to_owned(), line.to_vec());
        Ok(())
    }

    /// What the seed came in with, and what new servers were told, opens nothing any more.
    pub async fn is_refused(&self, world: &World) -> Result<()> {
        let state = world.hetzner().await?;
        let key = world.bed.dir().join("laptop/stolen.key");
        fs::write(
            &key,
            self.temporary_key.as_ref().context("no temporary key")?,
        )?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let mut tokens = 0;
        for server in list(&state, "servers") {
            let address = server["public_net"]["ipv4"]["ip"].as_str();
            let address = address.context("an address")?;
            let told: Value =
                serde_json::from_str(server["user_data"].as_str().unwrap_or_default())?;
            if let Some(token) = told["token"].as_str() {
                tokens += 1;
                token_is_refused(world, token).await?;
            } else {
                ssh_is_refused(address, &key)?;
            }
        }
        fs::remove_file(key)?;
        ensure!(tokens == 5, "{tokens} workers were told a token");
        Ok(())
    }

    pub async fn shows_nowhere(
        &self,
        world: &World,
        mut places: Vec<Sample>,
        said: &str,
    ) -> Result<()> {
        let all = forms(self.values.clone().into_iter().collect())?;
        places.push(("what it said".to_owned(), said.as_bytes().to_vec()));
        places.extend(in_the_cluster(&world.bed)?);
        places.push(("the repository".to_owned(), objects(world.bed.git().dir())?));
        let journal =
            json!({"requests": world.requests(0).await?, "state": world.hetzner().await?});
        places.push(("the emulator".to_owned(), without_user_data(&journal)));
        let mut found = leaks(&places, &all);

        let mut but_told = self.values.clone();
        but_told.remove(TOLD);
        let whole = ("user data".to_owned(), journal.to_string().into_bytes());
        found.extend(leaks(&[whole], &forms(but_told.into_iter().collect())?));
        ensure!(
            find(journal.to_string().as_bytes(), &self.values[TOLD]).is_some(),
            "the search is blind: no host key in user data"
        );
        found.extend(on_disks(world, &all)?);
        ensure!(
            found.is_empty(),
            "{} leaks:\n{}",
            found.len(),
            found.join("\n")
        );
        Ok(())
    }
}

/// Disks, Nix stores, state, etcd's data, the repository, logs: all of the bed.
fn on_disks(world: &World, forms: &[Sample]) -> Result<Vec<String>> {
    let bed = &world.bed;
    let lines: Vec<&[u8]> = forms.iter().map(|(_, form)| form.as_slice()).collect();
    let found = grep(bed.dir(), &lines.join(&b'\n'))?;
    let text = |path: PathBuf| path.display().to_string();
    let mut theirs = OF_PERSON.map(|file| text(bed.dir().join(file))).to_vec();
    for (server, _) in bed.control_planes() {
        let root = bed.machine(&server)?.root().context("a disk")?;
        let age_key = text(root.path("etc/fabrik/age.key"));
        ensure!(found.contains(&age_key), "the search is blind: {found:?}");
        theirs.extend(OF_SERVERS.map(|file| text(root.path(file))));
    }
    let belongs = |path: &String| theirs.iter().any(|place| path.starts_with(place));
    let (placed, leaks): (Vec<String>, Vec<String>) = found.into_iter().partition(belongs);
    let mut open = Vec::new();
    for path in placed {
        let mode = fs::metadata(&path)?.permissions().mode() & 0o077;
        if mode != 0 && !path.ends_with("laptop/token") {
            open.push(format!("{path} is not for its owner alone"));
        }
    }
    Ok([leaks, open].concat())
}

fn ssh_is_refused(address: &str, key: &Path) -> Result<()> {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-oBatchMode=yes", "-oIdentitiesOnly=yes"])
        .args(["-oIdentityAgent=none", "-oUserKnownHostsFile=/dev/null"])
        .args(["-oStrictHostKeyChecking=no", "-i"])
        .arg(key)
        .args([&format!("root@{address}"), "true"]);
    let ran = Ran::of(ssh)?;
    let refused = ran.code == Some(255) && ran.stderr.contains("Permission denied");
    ensure!(refused, "{ran:?}");
    Ok(())
}

/// A join token is revoked when its Node has joined.
async fn token_is_refused(world: &World, token: &str) -> Result<()> {
    let (_, secret) = token.split_once("::").context("a join token")?;
    let server = "jsonpath={.clusters[0].cluster.server}";
    let server = world.bed.kubectl(&["config", "view", "-o", server])?;
    let url = format!("{server}/api");
    let http = reqwest::Client::builder().tls_danger_accept_invalid_certs(true);
    let http = http.no_proxy().build()?;
    let refused = world
        .bed
        .wait_until("a join token is refused", SOON, async || {
            let answer = http.get(&url).bearer_auth(secret).send().await?;
            Ok((answer.status() == 401).then_some(()))
        });
    refused.await
}

/// All that was ever committed.
fn objects(repository: &Path) -> Result<Vec<u8>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(repository);
    let objects = git.args(["cat-file", "--batch", "--batch-all-objects"]);
    Ok(objects.output()?.stdout)
}

/// Files with one of these lines in them. They go by standard input: what is searched may be an argument list.
fn grep(dir: &Path, lines: &[u8]) -> Result<Vec<String>> {
    let mut child = Command::new("grep")
        .args([
            "--recursive",
            "--files-with-matches",
            "--text",
            "--fixed-strings",
            "--devices=skip",
            "--no-messages",
            // They hold what disk.img holds, and gigabytes of nothing after it, which is one line to grep.
            "--exclude=disk",
            "--exclude-dir=images",
            "--file=-",
        ])
        .arg(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("standard input")?
        .write_all(lines)?;
    let output = child.wait_with_output()?;
    // Files may go while it looks, which is no failure.
    let ended = output.status.code();
    ensure!(ended.is_some(), "grep was killed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .map(str::to_owned)
        .collect())
}
