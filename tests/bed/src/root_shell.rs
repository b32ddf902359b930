//! What root finds on a server of the control plane: `systemctl`, `systemd-run`, `busctl` and `k3s`, as far as
//! `fabrik restore` calls them. What is said to units is done by the bed, which keeps their processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::bed::{Bed, success};
use crate::control_plane::Component;
use crate::fabrik;
use crate::parts::Parts;
use crate::server::Server;

const STAND_INS: [(&str, &str); 4] = [
    ("busctl", include_str!("../stand-ins/root/busctl")),
    ("k3s", include_str!("../stand-ins/root/k3s")),
    ("systemctl", include_str!("../stand-ins/root/systemctl")),
    ("systemd-run", include_str!("../stand-ins/root/systemd-run")),
];

/// How often requests to units are looked for.
const LOOK: Duration = Duration::from_millis(100);
const STARTED: Duration = Duration::from_secs(120);

/// A shell of root on a server. What it says to units is done until it is dropped.
pub struct RootShell {
    dir: PathBuf,
    config: PathBuf,
    path: std::ffi::OsString,
    obeying: JoinHandle<()>,
}

impl RootShell {
    /// Opens one on server number `number`. Its k3s is told to join the first server, as each but the first is.
    pub async fn open(bed: &Bed, number: usize) -> Result<Self> {
        let server = Arc::clone(bed.server(number));
        let dir = server.control_plane.dir().join("root-shell");
        let etcdutl = tokio::task::spawn_blocking(Parts::etcdutl).await??;
        for folder in ["bin", "requests", "units", "k3s/config.yaml.d"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let path = path_of(&dir, bed)?;
        let arguments: Vec<String> = server.control_plane.etcd_arguments();
        let quoted: Vec<String> = arguments.iter().map(|a| format!("'{a}'")).collect();
        let text = |path: &Path| path.display().to_string();
        let places = [
            ("@DIR@", text(&dir)),
            ("@PATH@", path.to_string_lossy().into_owned()),
            ("@DB@", text(server.control_plane.dir())),
            ("@NODE@", server.control_plane.name().to_owned()),
            ("@ADDRESS@", server.control_plane.address().to_string()),
            ("@ETCD@", text(&bed.parts().etcd)),
            ("@ETCDCTL@", text(&bed.parts().etcdctl)),
            ("@ETCDUTL@", text(&etcdutl)),
            ("@ETCD_ARGUMENTS@", quoted.join(" ")),
        ];
        for (name, text) in STAND_INS {
            let mut text = text.to_owned();
            for (place, value) in &places {
                text = text.replace(place, value);
            }
            let file = dir.join("bin").join(name);
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(dir.join("k3s/config.yaml"), "token-file: /token\n")?;
        let first = bed.control_plane(0).address();
        fs::write(
            dir.join("k3s/config.yaml.d/50-fabrik.yaml"),
            format!("node-name: server\nserver: https://{first}:6443\n"),
        )?;
        let founding = server.fabrik.founding().context("not founded")?;
        look_after_etcd(&founding.config, &server)?;
        Ok(Self {
            obeying: tokio::spawn(obey(dir.join("requests"), server)),
            config: founding.config,
            path,
            dir,
        })
    }

    /// A program of this server, by its name; not started yet.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join("bin").join(program));
        command.args(arguments).env("PATH", &self.path);
        command
    }

    /// `fabrik restore` with this server's configuration; not started yet.
    pub fn restore(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(fabrik::binary()?);
        command.args(["restore", "--config"]).arg(&self.config);
        command.args(arguments).env("PATH", &self.path);
        Ok(command)
    }

    /// `k3s etcd-snapshot save`.
    pub fn save_snapshot(&self, name: &str) -> Result<String> {
        let arguments = ["etcd-snapshot", "save", "--name", name];
        let output = self.command("k3s", &arguments).output()?;
        success(&output, &arguments)
    }
}

impl Drop for RootShell {
    fn drop(&mut self) {
        self.obeying.abort();
    }
}

fn path_of(dir: &Path, bed: &Bed) -> Result<std::ffi::OsString> {
    let inherited = fabrik::path_with(bed.parts());
    let folders = std::iter::once(dir.join("bin")).chain(std::env::split_paths(&inherited));
    Ok(std::env::join_paths(folders)?)
}

/// Founding writes `[etcd]` where k3s has its files, which a bed has elsewhere.
fn look_after_etcd(config: &Path, server: &Server) -> Result<()> {
    let text = fs::read_to_string(config)?;
    if text.contains("[etcd]") {
        return Ok(());
    }
    let file = |name: &str| server.control_plane.dir().join(name);
    let endpoint = format!("https://{}:2379", server.control_plane.address());
    // Texts of TOML are those of JSON.
    let section = format!(
        "\n[etcd]\nendpoint = {}\nca-file = {}\ncertificate-file = {}\nkey-file = {}\nsnapshot-dir = {}\n",
        json!(endpoint),
        json!(file("etcd-ca.crt")),
        json!(file("etcd.crt")),
        json!(file("etcd.key")),
        json!(file("snapshots")),
    );
    Ok(fs::write(config, text + &section)?)
}

async fn obey(requests: PathBuf, server: Arc<Server>) {
    loop {
        for entry in fs::read_dir(&requests).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "wanted") {
                let wanted = fs::read_to_string(&path).unwrap_or_default();
                let said = match carry_out(wanted.trim(), &server).await {
                    Ok(()) => "ok".to_owned(),
                    Err(error) => format!("{error:#}"),
                };
                let told = fs::remove_file(&path)
                    .and_then(|()| fs::write(path.with_extension("said"), said))
                    .and_then(|()| {
                        fs::rename(path.with_extension("said"), path.with_extension("done"))
                    });
                if let Err(error) = told {
                    tracing::warn!(%error, wanted, "a request to a unit is not answered");
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn carry_out(wanted: &str, server: &Arc<Server>) -> Result<()> {
    let control_plane = &server.control_plane;
    match wanted {
        "stop fabrik" => blocking(server, |server| server.fabrik.stop()).await,
        "start fabrik" => server.fabrik.start(),
        "stop k3s" => {
            blocking(server, |server| {
                for component in Component::ALL.into_iter().rev() {
                    server.control_plane.stop(component);
                }
            })
            .await
        }
        "start k3s" => {
            let db = control_plane.dir();
            // As nixos/k3s.nix has it.
            if db.join("fabrik-restore/holds-k3s").exists() {
                bail!("k3s waits: a restore has begun");
            }
            // As k3s does when it starts without the flag.
            let _ = fs::remove_file(db.join("reset-flag"));
            control_plane.start_all(STARTED).await
        }
        other => bail!("this server has no such unit, or does not know how to {other}"),
    }
}

async fn blocking(server: &Arc<Server>, act: impl FnOnce(&Server) + Send + 'static) -> Result<()> {
    let server = Arc::clone(server);
    Ok(tokio::task::spawn_blocking(move || act(&server)).await?)
}
