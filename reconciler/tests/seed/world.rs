//! A person's laptop, their repository and its server, Hetzner, and what became of all of it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use hetzner_emulator::{Emulator, Options};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;

use super::building;
use super::machines::{GitServer, Machines, keygen};
use super::page;
use super::place::{FABRIK, Place, TOKEN, text};

pub struct World {
    place: Place,
    emulator: Emulator,
    /// Where the person's fabrik looks for it.
    hetzner: String,
    git: GitServer,
    ssh_port: u16,
    env: Vec<(String, String)>,
    laptop: &'static str,
    /// Made once: each one reads all certificates of this host.
    http: reqwest::Client,
    _machines: Machines,
}

/// What a run said, and how it ended.
pub struct Ran {
    pub out: String,
    pub err: String,
    pub code: Option<i32>,
}

impl Ran {
    pub fn is_ok(&self) -> bool {
        self.code == Some(0)
    }
}

fn ran(output: &Output) -> Ran {
    Ran {
        out: text(&output.stdout),
        err: text(&output.stderr),
        code: output.status.code(),
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n{}\n{}", self.code, self.out, self.err)
    }
}

impl World {
    /// A repository of `fabrik init` that wants three servers, committed and pushed; nothing at Hetzner.
    pub async fn start() -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let place = Place::with_repository();
        let options = Options {
            action_duration: Duration::from_millis(20),
            ..Options::default()
        };
        let emulator = Emulator::start(options).await.unwrap();
        let dir = place.path("machines");
        fs::create_dir(&dir).unwrap();
        let git = GitServer::start(&dir, free_port());
        let ssh_port = free_port();
        let control = format!("{}/_emulator", emulator.url());
        let world = Self {
            _machines: Machines::start(dir, control, ssh_port),
            place,
            hetzner: emulator.endpoint(),
            emulator,
            http: reqwest::Client::new(),
            git,
            ssh_port,
            env: Vec::new(),
            laptop: "state",
        };
        let spec = world.place.read("cluster.toml");
        let servers = "[servers]\ncount = 3\nserver-types = [\"cx33\"]\nlocations = [\"fsn1\", \"nbg1\", \"hel1\"]\n";
        world
            .place
            .write("cluster.toml", &format!("{spec}\n{servers}"));
        world.edit(
            "# ssh-from = [\"203.0.113.7/32\"]",
            "ssh-from = [\"127.0.0.0/8\"]",
        );
        world.edit(
            "# api-from = [\"203.0.113.7/32\"]",
            "api-from = [\"127.0.0.0/8\"]",
        );
        world.place.write("flake.lock", building::LOCK);
        let bare = world.place.path("demo.git");
        let bare = bare.to_str().unwrap();
        world
            .place
            .git(&["init", "--quiet", "--bare", "--initial-branch=main", bare]);
        world.place.git(&["remote", "add", "origin", bare]);
        world.commit("Begin");
        world
            .place
            .git(&["push", "--quiet", "--set-upstream", "origin", "main"]);
        world
    }

    /// From now on nobody answers where Hetzner should.
    pub fn lose_hetzner(&mut self) {
        self.hetzner = format!("http://127.0.0.1:{}/v1", free_port());
    }

    /// What the person's shell has besides.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// A program of the person's.
    pub fn program(&self, name: &str, text: &str) {
        self.place.script(&format!("bin/{name}"), text);
    }

    pub fn repository(&self) -> String {
        let dir = self.place.repo("").canonicalize().unwrap();
        dir.to_str().unwrap().to_owned()
    }

    pub fn write(&self, path: &str, text: &str) {
        self.place.write(path, text);
    }

    pub fn push(&self) {
        self.place.git(&["push", "--quiet"]);
    }

    pub fn edit(&self, from: &str, to: &str) {
        self.place.edit("cluster.toml", from, to);
    }

    pub fn commit(&self, message: &str) {
        self.place.git(&["add", "."]);
        self.place.git(&["commit", "--quiet", "-m", message]);
    }

    /// A flake that real Nix builds without a network, pushed.
    pub fn with_flake(self) -> Self {
        for (path, text) in building::flake() {
            self.place.write(path, &text);
        }
        self.commit("Have systems");
        self.place.git(&["push", "--quiet"]);
        self
    }

    /// The laptop has Nix.
    pub fn with_nix(self) -> Self {
        let dir = self.place.path("nix");
        self.place.script("bin/nix", &building::laptops_nix(&dir));
        self
    }

    /// Rescue systems can fetch Nix, in a tarball of that digest.
    pub fn offer_nix(&self, sha256: &str) {
        building::offer_nix(&self.place.path("machines"), sha256);
    }

    /// A disk of the person's, of so many bytes.
    pub fn disk(&self, name: &str, bytes: usize) -> Vec<u8> {
        let disk: Vec<u8> = (0..bytes)
            .map(|n| u8::try_from(n / 7 % 251).unwrap())
            .collect();
        fs::write(self.place.path(name), &disk).unwrap();
        disk
    }

    pub fn compress(&self, name: &str) {
        let mut zstd = self.place.command("zstd");
        let status = zstd.args(["-q", "-f"]).arg(self.place.path(name)).status();
        assert!(status.unwrap().success());
    }

    /// What is on the disk of the temporary server.
    pub fn written(&self) -> Vec<u8> {
        fs::read(self.machine_file("sda")).unwrap()
    }

    /// Nothing of what built it is left on the disk of the temporary server.
    pub fn disk_has_a_system_alone(&self) {
        let root = self.machine_file("partitions/sda3");
        let names = |dir: PathBuf| -> Vec<String> {
            let entries = fs::read_dir(dir).unwrap();
            let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != ".links").collect()
        };
        let installed = fs::read_to_string(root.join("installed")).unwrap();
        assert!(installed.starts_with("/dev/sda "), "{installed}");
        let store = names(root.join("nix/store"));
        assert!(
            store.len() == 1 && store[0].ends_with("-system"),
            "{store:?}"
        );
        let mut root = names(root);
        root.sort();
        assert_eq!(root, ["boot", "installed", "nix"]);
    }

    pub fn machine_file(&self, name: &str) -> PathBuf {
        self.place.path("machines").join(name)
    }

    pub fn flag(&self, name: &str, is_set: bool) {
        if is_set {
            fs::write(self.machine_file(name), "").unwrap();
        } else {
            fs::remove_file(self.machine_file(name)).unwrap();
        }
    }

    /// Lets the seed's deploy key read the repository, as a person does at a forge.
    pub fn authorize_git(&self) {
        let key = self.state_dir().join("deploy.key");
        if !key.exists() {
            // The first run would make it.
            fs::create_dir_all(self.state_dir()).unwrap();
            keygen(&key);
            fs::remove_file(self.state_dir().join("deploy.key.pub")).unwrap();
        }
        let mut keygen = self.place.command("ssh-keygen");
        let public = keygen.arg("-y").arg("-f").arg(key).output().unwrap();
        assert!(public.status.success(), "{public:?}");
        fs::write(self.machine_file("authorized-git"), public.stdout).unwrap();
    }

    pub fn state_dir(&self) -> PathBuf {
        self.place.path(self.laptop).join("fabrik/demo")
    }

    /// Goes to the laptop that keeps its state in that folder, with the same home otherwise.
    pub fn at_laptop(&mut self, folder: &'static str) {
        self.laptop = folder;
    }

    /// `fabrik seed` to its end.
    pub async fn seed(&self, more: &[&str]) -> Ran {
        self.seed_of("demo.git", more).await
    }

    /// `fabrik destroy` to its end.
    pub async fn destroy(&self, more: &[&str]) -> Ran {
        self.destroy_in_project_of(self, more).await
    }

    /// As [`Self::destroy`], with the token of another project.
    pub async fn destroy_in_project_of(&self, other: &Self, more: &[&str]) -> Ran {
        let mut command = self.place.command(FABRIK);
        command
            .args(["destroy", "--dir", "demo", "--yes", "demo"])
            .args(["--hetzner-endpoint", &other.emulator.endpoint()])
            .args(more)
            .env("XDG_STATE_HOME", self.place.path(self.laptop))
            .current_dir(self.place.path(""))
            .stdin(Stdio::null());
        let output = tokio::process::Command::from(command).output();
        ran(&output.await.unwrap())
    }

    /// As [`Self::seed`], by whoever has another home.
    pub async fn seed_from_home(&self, home: &Path) -> Ran {
        let mut command = self.command(&["--yes", "demo"]);
        command.env("HOME", home);
        ran(&command.output().await.unwrap())
    }

    /// `fabrik seed`, killed as soon as it has told of a step that it was not killed after before.
    pub async fn seed_and_kill(&self, more: &[&str], killed_after: &mut BTreeSet<String>) -> Ran {
        let is_new = |words: &str| killed_after.insert(words.to_owned());
        self.seed_until_told(more, is_new).await
    }

    /// `fabrik seed`, killed as soon as it has told of such a step.
    pub async fn seed_until_told(
        &self,
        more: &[&str],
        mut is_last: impl FnMut(&str) -> bool,
    ) -> Ran {
        let mut child = self.command(more).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut out = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            out.push_str(&line);
            out.push('\n');
            let step = line.trim_start().split_once(" s  ");
            let step = step.filter(|(secs, _)| secs.parse::<f64>().is_ok());
            if step.is_some_and(|(_, words)| is_last(words)) {
                child.start_kill().unwrap();
            }
        }
        self.end(child, out).await
    }

    /// `fabrik seed`, interrupted from its terminal as soon as it has told of that step.
    pub async fn seed_interrupted_after(&self, more: &[&str], step: &str) -> Ran {
        let mut child = self.command(more).spawn().unwrap();
        let id = child.id().unwrap().to_string();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.ends_with(step) {
                let sent = std::process::Command::new("kill")
                    .args(["-INT", &id])
                    .status();
                assert!(sent.unwrap().success());
            }
        }
        ran(&child.wait_with_output().await.unwrap())
    }

    /// `fabrik seed`, killed as soon as a machine has made that file.
    pub async fn seed_until(&self, more: &[&str], file: &str) -> Ran {
        let mut child = self.command(more).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.machine_file(file).exists() && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "no {file}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        child.start_kill().unwrap();
        self.end(child, String::new()).await
    }

    async fn end(&self, mut child: Child, out: String) -> Ran {
        let mut err = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut err).await.unwrap();
        let code = child.wait().await.unwrap().code();
        let ran = Ran { out, err, code };
        assert!(code.is_none_or(|code| code == 0), "{ran}");
        ran
    }

    fn command(&self, more: &[&str]) -> tokio::process::Command {
        self.command_of("demo.git", more)
    }

    /// As [`Self::seed`], in a repository that is pushed elsewhere.
    pub async fn seed_of(&self, bare: &str, more: &[&str]) -> Ran {
        ran(&self.command_of(bare, more).output().await.unwrap())
    }

    /// As [`Self::seed`], with the token of another project: what is there is not here, and the other way round.
    pub async fn seed_in_project_of(&self, other: &Self, more: &[&str]) -> Ran {
        let endpoint = other.emulator.endpoint();
        let mut command = self.command_at(&endpoint, "demo.git", more);
        ran(&command.output().await.unwrap())
    }

    fn command_of(&self, bare: &str, more: &[&str]) -> tokio::process::Command {
        self.command_at(&self.hetzner, bare, more)
    }

    fn command_at(&self, endpoint: &str, bare: &str, more: &[&str]) -> tokio::process::Command {
        let known_hosts = self.machine_file("known_hosts");
        let public = fs::read_to_string(self.machine_file("git-host.pub")).unwrap();
        let (ip, port) = (self.git.address.ip(), self.git.address.port());
        fs::write(&known_hosts, format!("[{ip}]:{port} {public}")).unwrap();
        let bare = self.place.path(bare);
        let repository = format!("ssh://root@{ip}:{port}{}", bare.display());
        let mut command = self.place.command(FABRIK);
        command
            .args(["seed", "demo", "--repository", &repository, "--known-hosts"])
            .arg(known_hosts)
            .args(["--hetzner-endpoint", endpoint])
            .args(["--ssh-port", &self.ssh_port.to_string()])
            .args(more)
            .env("XDG_STATE_HOME", self.place.path(self.laptop))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.place.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        command
    }

    /// What a run said, with the names of the page in the place of this machine's.
    pub fn told(&self, out: &str) -> String {
        let (ip, port) = (self.git.address.ip(), self.git.address.port());
        let bare = self.place.path("demo.git");
        let bare = bare.to_str().unwrap();
        let told = out
            .replace(&format!("ssh://root@{ip}:{port}{bare}"), page::REPOSITORY)
            .replace(bare, page::REPOSITORY)
            .replace(&format!("root@{ip}"), "git@git.example.com")
            .replace(&ip.to_string(), "git.example.com")
            .replace("127.0.0.0/8", "203.0.113.7/32")
            .replace(self.state_dir().to_str().unwrap(), page::STATE_DIR)
            .replace(self.place.path("").to_str().unwrap(), "");
        page::without_chance(&told)
    }

    pub async fn state(&self) -> Value {
        self.control("state").await
    }

    /// How often that happened to servers.
    pub async fn events(&self, kind: &str) -> usize {
        let events = self.control("events").await;
        let events = events["events"].as_array().unwrap().iter();
        events.filter(|event| event["kind"] == kind).count()
    }

    async fn control(&self, path: &str) -> Value {
        let url = format!("{}/_emulator/{path}", self.emulator.url());
        self.http
            .get(url)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    pub async fn settings(&self, settings: Value) {
        let url = format!("{}/_emulator/settings", self.emulator.url());
        let sent = self.http.put(url).json(&settings).send().await;
        assert!(sent.unwrap().status().is_success());
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.call(Method::POST, path, body).await
    }

    pub async fn delete(&self, path: &str) {
        self.call(Method::DELETE, path, json!({})).await;
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("{}/{path}", self.emulator.endpoint());
        let request = self.http.request(method, url).bearer_auth(TOKEN);
        let answer = request.json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}");
        answer.json().await.unwrap()
    }

    /// The first server has all that makes it the cluster, and nobody else has anything of it.
    pub async fn is_whole(&self) {
        let state = self.state().await;
        // One key is the person's, of [ssh-keys].
        let expected =
            "1 servers, 1 images, 1 ssh_keys, 1 networks, 1 firewalls, 1 placement_groups";
        assert_eq!(left(&state), expected);
        let server = &state["servers"][0];
        assert_eq!(server["labels"]["fabrik.dev/role"], "server");
        assert_eq!(server["labels"]["fabrik.dev/pool"], "servers");

        let bundle = fs::read(self.machine_file("bundle.json")).unwrap();
        let bundle: Value = serde_json::from_slice(&bundle).unwrap();
        let cluster = &server["labels"]["fabrik.dev/cluster"];
        assert_eq!(bundle["cluster"], json!({"name": "demo", "id": cluster}));
        assert_eq!(bundle["repository"]["branch"], "main");
        let opened = self
            .place
            .fabrik(&["secrets", "decrypt", "demo/secrets/age.key"], "");
        assert_eq!(bundle["age-key"], text(&opened.stdout));

        // Nothing of it is in the user data, nor left on the laptop.
        let user_data = server["user_data"].as_str().unwrap();
        let told: Value = serde_json::from_str(user_data).unwrap();
        let mut secrets = vec![told["host-key"].as_str().unwrap().to_owned()];
        for key in [
            "age-key",
            "deploy-key",
            "signing-key",
            "webhook-secret",
            "k3s-token",
        ] {
            let secret = bundle[key].as_str().unwrap().trim();
            assert!(!secret.is_empty() && !user_data.contains(secret), "{key}");
            secrets.push(secret.lines().last().unwrap().to_owned());
        }
        let laptop = self.place.files().into_iter();
        for (path, content) in laptop.filter(|(path, _)| path.starts_with("state/")) {
            let content = String::from_utf8_lossy(&content).into_owned();
            for secret in &secrets {
                assert!(!content.contains(secret.trim()), "{path}");
            }
        }
        assert_eq!(
            fs::read_to_string(self.machine_file("authorized-first")).unwrap(),
            ""
        );
        let kubeconfig = fs::read_to_string(self.state_dir().join("kubeconfig")).unwrap();
        let address = server["public_net"]["ipv4"]["ip"].as_str().unwrap();
        assert_eq!(kubeconfig, format!("server: https://{address}:6443\n"));
    }
}

/// What is at Hetzner, counted.
pub fn left(state: &Value) -> String {
    let kinds = [
        "servers",
        "images",
        "ssh_keys",
        "networks",
        "firewalls",
        "placement_groups",
    ];
    let count = |kind: &str| state[kind].as_array().map_or(0, Vec::len);
    let counts = kinds.iter().filter(|kind| count(kind) > 0);
    let counts = counts.map(|kind| format!("{} {kind}", count(kind)));
    counts.collect::<Vec<_>>().join(", ")
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    hex.collect()
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
