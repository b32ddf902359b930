//! k3s on this server: stopped and started by its service manager, and run once to reset etcd.
//!
//! The reset runs with the unit's own arguments and environment, because data folder, token and network are among them,
//! and with a copy of its configuration that neither joins nor founds: k3s resets nothing while it is told a server to
//! join. (k3s, `pkg/cli/server/server.go`: "cannot perform cluster-reset while server URL is set")

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use fabrik_core::restore::Source;
use serde::Deserialize;
use tokio::process::Command;

use super::error::{RestoreError, at};
use super::files;
use crate::cluster::founding::{private_dir, replace_file};

pub const K3S: &str = "k3s.service";
pub const FABRIK: &str = "fabrik.service";
/// A unit of its own, so that a reset whose caller was killed is found again and ended.
const RESET: &str = "fabrik-restore-k3s.service";
/// k3s gives a reset no limit of its own; the biggest etcd is restored in less.
const RESET_LIMIT_SECS: u32 = 900;
/// (docs.k3s.io, "Configuration File")
const DEFAULT_CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// How much of what k3s said is shown.
const LAST_LINES: usize = 8;

/// How the unit starts k3s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    program: String,
    /// Without what says to join or to found, and where the configuration is.
    arguments: Vec<String>,
    config: PathBuf,
    environment: Vec<(String, String)>,
    /// Files with more of it, and whether one may be missing.
    environment_files: Vec<(String, bool)>,
}

/// A property as `busctl --json=short` prints it.
#[derive(Deserialize)]
struct Property<T> {
    data: T,
}

impl Start {
    /// Asks the service manager, which alone knows how the unit's words are split.
    /// (systemd, "org.freedesktop.systemd1", Service: `ExecStart`, `Environment`, `EnvironmentFiles`)
    pub async fn of_the_unit() -> Result<Self, RestoreError> {
        let mut command = Command::new("busctl");
        command.args(["--json=short", "get-property", "org.freedesktop.systemd1"]);
        command.arg("/org/freedesktop/systemd1/unit/k3s_2eservice");
        command.arg("org.freedesktop.systemd1.Service");
        command.args(["ExecStart", "Environment", "EnvironmentFiles"]);
        let output = done(command).await?;
        Self::read(&String::from_utf8_lossy(&output.stdout)).map_err(RestoreError::Unit)
    }

    fn read(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let mut line = || lines.next().ok_or("busctl says less than it was asked for");
        let commands: Property<Vec<serde_json::Value>> = property(line()?)?;
        let environment: Property<Vec<String>> = property(line()?)?;
        let environment_files: Property<Vec<(String, bool)>> = property(line()?)?;
        let command = commands
            .data
            .into_iter()
            .next()
            .ok_or("it starts nothing")?;
        let (program, words) = exec(&command).ok_or("its ExecStart does not read")?;
        let (arguments, config) = without_orders(words)?;
        let variables = environment.data.into_iter();
        let variables = variables.filter_map(|variable| {
            let (name, value) = variable.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Ok(Self {
            program,
            arguments,
            config: config.unwrap_or_else(|| DEFAULT_CONFIG.into()),
            environment: variables.collect(),
            environment_files: environment_files.data,
        })
    }

    /// Has k3s make this server etcd's only member, and waits until it has. `config` is a folder for a configuration of
    /// its own, which goes when this returns.
    pub async fn reset(&self, from: &Source, config: &Path) -> Result<(), String> {
        let ended = match self.configure(config) {
            Ok(file) => self.run_reset(from, &file).await,
            Err(error) => Err(error.to_string()),
        };
        files::remove(config).map_err(|error| error.to_string())?;
        ended
    }

    async fn run_reset(&self, from: &Source, config: &Path) -> Result<(), String> {
        let mut command = Command::new("systemd-run");
        command.arg(format!("--unit={RESET}"));
        command.args([
            "--collect",
            "--wait",
            "--pipe",
            "--quiet",
            "--service-type=exec",
        ]);
        command.arg(format!("--property=RuntimeMaxSec={RESET_LIMIT_SECS}"));
        for (file, optional) in &self.environment_files {
            let sign = if *optional { "-" } else { "" };
            command.arg(format!("--property=EnvironmentFile={sign}{file}"));
        }
        // By name alone: a value may be secret, and arguments are seen by all.
        for (name, value) in &self.environment {
            command.env(name, value).arg(format!("--setenv={name}"));
        }
        command.arg(&self.program).args(&self.arguments);
        command.arg("--config").arg(config).arg("--cluster-reset");
        if let Source::Snapshot(snapshot) = from {
            // Where the configuration says to keep snapshots in S3, this one is on the disk all the same.
            // (docs.k3s.io, "k3s etcd-snapshot")
            command.arg("--etcd-s3=false");
            command.arg(format!("--cluster-reset-restore-path={}", snapshot.file));
        }
        let output = output(command).await.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{}\n{}", output.status, last_words(&output)))
    }

    /// The unit's configuration in a folder of its own, less what says to join or to found.
    fn configure(&self, dir: &Path) -> Result<PathBuf, RestoreError> {
        files::remove(dir)?;
        private_dir(dir).map_err(at(dir))?;
        let file = dir.join("config.yaml");
        let drop_ins = |file: &Path| {
            let mut name = OsString::from(file);
            name.push(".d");
            PathBuf::from(name)
        };
        let (from, to) = (drop_ins(&self.config), drop_ins(&file));
        private_dir(&to).map_err(at(&to))?;
        if self.config.exists() {
            without_keys(&self.config, &file)?;
        } else {
            replace_file(&file, b"").map_err(at(&file))?;
        }
        if from.is_dir() {
            for entry in fs::read_dir(&from).map_err(at(&from))? {
                let path = entry.map_err(at(&from))?.path();
                let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
                if let Some(name) = path.file_name().filter(|_| is_yaml) {
                    without_keys(&path, &to.join(name))?;
                }
            }
        }
        Ok(file)
    }
}

/// Stops a unit, and waits until it has ended.
pub async fn stop(unit: &str) -> Result<(), RestoreError> {
    systemctl(["stop", unit]).await
}

/// Starts a unit, and waits until it says that it is up.
pub async fn start(unit: &str) -> Result<(), RestoreError> {
    systemctl(["start", unit]).await
}

/// Ends a reset that was left by a killed caller.
pub async fn end_reset() -> Result<(), RestoreError> {
    let mut command = Command::new("systemctl");
    command.args(["is-active", "--quiet", RESET]);
    let runs = output(command)
        .await
        .map_err(|source| RestoreError::Program {
            command: "systemctl is-active".to_owned(),
            said: source.to_string(),
        })?;
    if runs.status.success() {
        stop(RESET).await
    } else {
        Ok(())
    }
}

async fn systemctl(arguments: [&str; 2]) -> Result<(), RestoreError> {
    let mut command = Command::new("systemctl");
    command.args(arguments);
    done(command).await.map(drop)
}

fn property<T: serde::de::DeserializeOwned>(line: &str) -> Result<Property<T>, String> {
    serde_json::from_str(line).map_err(|error| format!("busctl says {line:?}: {error}"))
}

fn exec(command: &serde_json::Value) -> Option<(String, Vec<String>)> {
    let program = command.get(0)?.as_str()?.to_owned();
    let words = command.get(1)?.as_array()?.iter();
    let words: Option<Vec<String>> = words.map(|w| w.as_str().map(str::to_owned)).collect();
    Some((program, words?))
}

/// The arguments behind the program's name without those that join, found or configure, and the configuration's path.
fn without_orders(words: Vec<String>) -> Result<(Vec<String>, Option<PathBuf>), String> {
    let mut words = words.into_iter().skip(1);
    let mut kept = Vec::new();
    let mut config = None;
    match words.next() {
        Some(word) if word == "server" => kept.push(word),
        _ => return Err("it does not start `k3s server`".to_owned()),
    }
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        match flag.trim_start_matches('-') {
            "config" | "c" => config = value.or_else(|| words.next()).map(PathBuf::from),
            "server" | "s" => drop(value.or_else(|| words.next())),
            "cluster-init" => {}
            _ => kept.push(word),
        }
    }
    Ok((kept, config))
}

/// Writes what `from` says to `to`, but for the keys that say to join or to found: as nixos/k3s.nix looks for them.
fn without_keys(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let text = fs::read_to_string(from).map_err(at(from))?;
    let is_order = |line: &&str| {
        let key = line.split_once(':').map(|(key, _)| key.trim_end());
        let key = key.map(|key| key.trim_matches(['"', '\'']));
        matches!(key, Some("server" | "cluster-init"))
    };
    let kept: Vec<&str> = text.lines().filter(|line| !is_order(line)).collect();
    replace_file(to, (kept.join("\n") + "\n").as_bytes()).map_err(at(to))
}

async fn done(command: Command) -> Result<Output, RestoreError> {
    let words = command.as_std();
    let program = words.get_program().to_string_lossy().into_owned();
    let arguments = words.get_args().map(|a| a.to_string_lossy().into_owned());
    let line = std::iter::once(program).chain(arguments);
    let line = line.collect::<Vec<_>>().join(" ");
    let failed = |said: String| RestoreError::Program {
        command: line.clone(),
        said,
    };
    let output = output(command).await.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(failed(format!(
        "{}: {}",
        output.status,
        last_words(&output)
    )))
}

async fn output(mut command: Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).output().await
}

fn last_words(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd 252 answers for such a unit.
    const UNIT: &str = r#"{"type":"a(sasbttttuii)","data":[["/nix/store/x-k3s/bin/k3s",["/nix/store/x-k3s/bin/k3s","server","--server","https://10.0.1.1:6443","--config","/etc/rancher/k3s/config.yaml","--node-label=a=b c","--cluster-init","--kubelet-arg=config=/etc/k.yaml"],false,0,0,0,0,0,0,0]]}
{"type":"as","data":["PATH=/nix/store/y/bin:/bin","K3S_TOKEN=hush"]}
{"type":"a(sb)","data":[["/etc/k3s.env",true]]}
"#;

    #[test]
    fn the_unit_s_arguments_are_kept_but_for_what_joins_or_founds() {
        let start = Start::read(UNIT).unwrap();
        assert_eq!(start.program, "/nix/store/x-k3s/bin/k3s");
        let kept = [
            "server",
            "--node-label=a=b c",
            "--kubelet-arg=config=/etc/k.yaml",
        ];
        assert_eq!(start.arguments, kept);
        assert_eq!(start.config, Path::new("/etc/rancher/k3s/config.yaml"));
        assert_eq!(start.environment[1], ("K3S_TOKEN".into(), "hush".into()));
        assert_eq!(start.environment_files, [("/etc/k3s.env".to_owned(), true)]);
    }

    #[test]
    fn a_unit_that_runs_no_server_is_refused() {
        let agent = UNIT.replace("\"server\",\"--server\"", "\"agent\",\"--server\"");
        assert_eq!(
            Start::read(&agent).unwrap_err(),
            "it does not start `k3s server`"
        );
        assert!(Start::read("").is_err());
        assert!(Start::read(&UNIT.replace("\"type\"", "type")).is_err());
    }

    #[test]
    fn the_configuration_of_a_reset_neither_joins_nor_founds_and_says_all_else() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("config.yaml");
        let drop_ins = dir.path().join("config.yaml.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(&own, "token-file: /t\n'cluster-init': true\n").unwrap();
        let node = "node-name: server-3\nserver: https://10.0.1.1:6443\nserver-side: x\n";
        fs::write(drop_ins.join("50-fabrik.yaml"), node).unwrap();
        let mut start = Start::read(UNIT).unwrap();
        start.config = own;
        let to = dir.path().join("reset");
        let file = start.configure(&to).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "token-file: /t\n");
        let drop_in = to.join("config.yaml.d/50-fabrik.yaml");
        let expected = "node-name: server-3\nserver-side: x\n";
        assert_eq!(fs::read_to_string(drop_in).unwrap(), expected);
    }
}
