//! `fabrik` on one server: founding, and `fabrik run` as a process.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;

use crate::machine::Root;
use crate::parts::Parts;
use crate::process::{Dirs, Process, Spec};

/// What `fabrik found` says on standard output.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Founding {
    pub cluster_id: String,
    /// Who can read the cluster's secrets.
    pub age_recipient: String,
    pub deploy_key: String,
    pub signing_key: String,
    pub config: PathBuf,
}

/// Key files that all servers of a cluster share.
const SHARED_KEYS: [&str; 6] = [
    "age.key",
    "signing.key",
    "signing.pub",
    "deploy.key",
    "deploy.key.pub",
    "webhook.secret",
];

/// `fabrik` on one server.
pub struct Fabrik {
    server: String,
    /// Where `found` puts its files.
    dir: PathBuf,
    dirs: Dirs,
    parts: Arc<Parts>,
    state: Mutex<State>,
}

struct State {
    /// What runs as `fabrik` here.
    program: PathBuf,
    founding: Option<Founding>,
    /// Started at boot, as an enabled service is.
    enabled: bool,
    process: Option<Process>,
    /// In front of PATH: `k3s` on this server's own disk.
    programs: Option<PathBuf>,
}

/// Where `found` finds the rest of the bed.
#[derive(Clone, Debug)]
pub struct Place {
    pub admin_kubeconfig: PathBuf,
    pub cluster: String,
    pub repository: String,
    pub branch: String,
    /// This server's first.
    pub api_servers: Vec<String>,
    pub join_urls: Vec<String>,
    pub known_hosts: PathBuf,
    pub hetzner_endpoint: String,
    pub listen: String,
    pub poll: String,
}

/// Where a server has what `fabrik run` needs for systems.
pub(crate) struct Systems<'a> {
    pub cache: SocketAddr,
    /// Of etcd's client port.
    pub etcd: String,
    pub certificates: &'a Path,
}

impl Fabrik {
    pub fn new(server: &str, dir: &Path, dirs: &Dirs, parts: Arc<Parts>, program: PathBuf) -> Self {
        let state = State {
            program,
            founding: None,
            enabled: false,
            process: None,
            programs: None,
        };
        Self {
            server: server.to_owned(),
            dir: dir.join("fabrik"),
            dirs: dirs.clone(),
            parts,
            state: Mutex::new(state),
        }
    }

    /// The folder with `config.toml` and the keys.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn founding(&self) -> Option<Founding> {
        self.lock().founding.clone()
    }

    /// Runs `fabrik found` for this server, with the keys of `elder` if there is one.
    pub async fn found(&self, place: &Place, elder: Option<&Self>) -> Result<Founding> {
        fs::create_dir_all(&self.dir)?;
        if let Some(elder) = elder {
            for key in SHARED_KEYS {
                let from = elder.dir.join(key);
                fs::copy(&from, self.dir.join(key))
                    .with_context(|| format!("copying {}", from.display()))?;
            }
        }
        let program = self.lock().program.clone();
        let output = tokio::process::Command::new(program)
            .args(self.found_arguments(place))
            .env("PATH", self.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("starting fabrik found")?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!(
                "fabrik found for {} failed ({}):\n{reason}",
                self.server,
                output.status
            );
        }
        let founding: Founding =
            serde_json::from_slice(&output.stdout).context("reading what fabrik found printed")?;
        self.lock().founding = Some(founding.clone());
        Ok(founding)
    }

    /// Starts `fabrik run`, now and at each boot of this server.
    pub fn start(&self) -> Result<()> {
        let mut state = self.lock();
        let config = state
            .founding
            .as_ref()
            .map(|founding| founding.config.clone());
        let config = config.with_context(|| format!("{} was not founded", self.server))?;
        state.enabled = true;
        if state.process.as_ref().is_some_and(Process::is_running) {
            return Ok(());
        }
        let spec = Spec::new(&self.service(), &state.program, &self.dirs)
            .args(["run".into(), "--config".into(), config.into_os_string()])
            .env("PATH", in_front(state.programs.as_deref(), self.path()));
        // Ended first: its log and record have the same names.
        state.process = None;
        state.process = Some(Process::start(spec)?);
        Ok(())
    }

    /// Another system brings another build: what runs is started anew as that one.
    pub(crate) fn become_program(&self, program: &Path) -> Result<()> {
        let mut state = self.lock();
        if state.program == program {
            return Ok(());
        }
        program.clone_into(&mut state.program);
        let runs = state.process.take().is_some();
        drop(state);
        if runs { self.start() } else { Ok(()) }
    }

    /// Lets it evaluate and build systems, serve them, and look after etcd: sections of the
    /// configuration that founding writes where k3s has its files, which a bed has elsewhere.
    pub(crate) fn give_systems(&self, root: &Root, places: &Systems<'_>) -> Result<()> {
        let mut state = self.lock();
        let founding = state.founding.as_ref();
        let config = &founding
            .with_context(|| format!("{} was not founded", self.server))?
            .config;
        let mut text = fs::read_to_string(config)?;
        for (section, keys) in self.sections(root, places) {
            if !text.contains(&format!("[{section}]")) {
                // Texts of TOML are those of JSON.
                let line = |(key, value): (&str, String)| format!("{key} = {}\n", json!(value));
                let lines: String = keys.into_iter().map(line).collect();
                text = format!("{text}\n[{section}]\n{lines}");
            }
        }
        fs::write(config, text)?;
        state.programs = Some(root.server_programs());
        Ok(())
    }

    fn sections(
        &self,
        root: &Root,
        places: &Systems<'_>,
    ) -> [(&'static str, Vec<(&'static str, String)>); 3] {
        let file = |name: &str| places.certificates.join(name).display().to_string();
        [
            (
                "nix",
                vec![
                    ("program-dir", root.programs().display().to_string()),
                    ("store", root.dir().display().to_string()),
                    (
                        "signing-key-file",
                        self.dir.join("signing.key").display().to_string(),
                    ),
                ],
            ),
            (
                "cache",
                vec![
                    ("listen", places.cache.to_string()),
                    ("certificate-file", file("apiserver.crt")),
                    ("key-file", file("apiserver.key")),
                    ("client-ca-file", file("ca.crt")),
                ],
            ),
            (
                "etcd",
                vec![
                    ("endpoint", places.etcd.clone()),
                    ("ca-file", file("etcd-ca.crt")),
                    ("certificate-file", file("etcd.crt")),
                    ("key-file", file("etcd.key")),
                    ("snapshot-dir", file("snapshots")),
                ],
            ),
        ]
    }

    /// SIGTERM; blocks until it has ended. It is not started at the next boot either.
    pub fn stop(&self) {
        let process = self.disable();
        if let Some(process) = process {
            process.stop();
        }
    }

    /// SIGKILL; blocks until it has ended. It is not started at the next boot either.
    pub fn kill(&self) {
        drop(self.disable());
    }

    /// SIGKILL, of which its service manager does not know yet: it starts it again when it looks ([`Fabrik::boot`]),
    /// and when the server boots. False: it does not run.
    pub fn crash(&self) -> bool {
        let process = self.lock().process.take();
        process.is_some_and(|process| process.is_running())
    }

    pub fn is_running(&self) -> bool {
        self.lock()
            .process
            .as_ref()
            .is_some_and(Process::is_running)
    }

    pub fn pid(&self) -> Option<u32> {
        self.lock().process.as_ref().and_then(Process::pid)
    }

    /// Everything that it has written since the bed started.
    pub fn log(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    pub fn log_path(&self) -> PathBuf {
        self.dirs.logs.join(format!("{}.log", self.service()))
    }

    /// What is enabled is started: the server boots, or its service manager has seen that it does not run.
    pub fn boot(&self) -> Result<()> {
        if self.lock().enabled {
            self.start()
        } else {
            Ok(())
        }
    }

    /// The server loses power.
    pub(crate) fn cut(&self) {
        let process = self.lock().process.take();
        drop(process);
    }

    fn disable(&self) -> Option<Process> {
        let mut state = self.lock();
        state.enabled = false;
        state.process.take()
    }

    fn service(&self) -> String {
        format!("{}-fabrik", self.server)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// fabrik calls sops by its name.
    fn path(&self) -> OsString {
        path_with(&self.parts)
    }

    fn found_arguments(&self, place: &Place) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["found".into()];
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        add("--kubeconfig", place.admin_kubeconfig.clone().into());
        add("--dir", self.dir.clone().into());
        add("--name", place.cluster.clone().into());
        add("--node", self.server.clone().into());
        add("--repository", place.repository.clone().into());
        add("--branch", place.branch.clone().into());
        for url in &place.api_servers {
            add("--api-server", url.into());
        }
        for url in &place.join_urls {
            add("--join-url", url.into());
        }
        add("--known-hosts", place.known_hosts.clone().into());
        add("--hetzner-endpoint", place.hetzner_endpoint.clone().into());
        add("--listen", place.listen.clone().into());
        add("--poll", place.poll.clone().into());
        for (name, value) in [
            ("--lease-duration", "4s"),
            ("--renew-deadline", "3s"),
            ("--retry-period", "500ms"),
        ] {
            add(name, value.into());
        }
        arguments
    }
}

/// PATH with the folders of the parts in front.
pub(crate) fn path_with(parts: &Parts) -> OsString {
    let own = [&parts.sops, &parts.kubectl]
        .into_iter()
        .filter_map(|part| part.parent());
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = own
        .map(Path::to_owned)
        .chain(std::env::split_paths(&inherited));
    std::env::join_paths(folders).unwrap_or(inherited)
}

/// The folders of `fabrik`, `kubectl` and `sops`, as PATH has them.
pub(crate) fn path_of_tools(parts: &Parts) -> PathBuf {
    let fabrik = binary().ok();
    let tools = fabrik.iter().chain([&parts.kubectl, &parts.sops]);
    let folders = tools.filter_map(|tool| tool.parent());
    std::env::join_paths(folders).unwrap_or_default().into()
}

fn in_front(folder: Option<&Path>, path: OsString) -> OsString {
    let folders = folder
        .map(Path::to_owned)
        .into_iter()
        .chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path)
}

/// `FABRIK_BIN`, else `fabrik` as cargo built it into the same target folder.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FABRIK_BIN") {
        return Ok(path.into());
    }
    let program = std::env::current_exe()?;
    let found = program
        .ancestors()
        .skip(1)
        .map(|dir| dir.join("fabrik"))
        .find(|p| p.is_file());
    found.context("no fabrik binary: cargo build -p fabrik, or set FABRIK_BIN")
}
