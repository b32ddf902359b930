//! The units of the NixOS modules under a real systemd: what their sandbox forbids, fabrik has to do without.

mod units {
    use std::process::Command;

    mod identity;
    pub mod modules;
    pub mod room;
    pub mod secrets;

    /// What a program printed.
    pub fn run(command: &mut Command) -> String {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use fabrik::node::state::State;
use fabrik::secrets::founding_keys;
use fabrik_core::agent::{Journal, Try};
use fabrik_core::id::StorePath;
use fabrik_core::system::{Needs, Phase};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use units::modules;
use units::room::Room;
use units::run;
use units::secrets::{self, STATE};

const AGENT: &str = "fabrik-agent.service";
const FABRIK: &str = "fabrik.service";
const TRY: &str = "fabrik-try-7.service";
/// Where nixos-rebuild runs an activation.
const ACTIVATION: &str = "nixos-rebuild-switch-to-configuration.service";
const SECRET: &str = "/run/fabrik/secrets/vpn";
/// Tells that it was called, waits for a word, and is what runs.
const SWITCH: &str = r#"#!/bin/sh
set -eu
system=${0%/bin/switch-to-configuration}
echo "$1 $system" >>/run/switched
until [ -e /run/go-on ]; do sleep 0.05; done
ln -sfn "$system" /run/current-system
"#;

#[test]
fn the_agent_goes_back_in_units_that_outlive_it_and_begins_nothing_twice() {
    let service = modules::evaluate("agentUnit");
    let exec = service["serviceConfig"]["ExecStart"].as_str().unwrap();
    let exec = exec.replace("/stub/fabrik/bin/fabrik", "/opt/fabrik");
    let etc = TempDir::new().unwrap();
    secrets::configure(etc.path());
    let mut room = Room::boot(AGENT, &modules::unit(&service, &exec), etc.path());

    let [old, new] = ["old", "new"].map(|name| system(&room, name));
    symlink(old.as_str(), room.path("/run/booted-system")).unwrap();
    symlink(new.as_str(), room.path("/run/current-system")).unwrap();
    let profiles = "/nix/var/nix/profiles";
    fs::create_dir_all(room.path(profiles)).unwrap();
    symlink(old.as_str(), room.path(profiles).join("system-1-link")).unwrap();
    symlink("system-1-link", room.path(profiles).join("system")).unwrap();
    // The power was there, the agent was not: an activation goes on that nobody waits for, and its time is over.
    let journal = journal(&room, &old, &new);
    State::new(&room.path(STATE))
        .write_journal(&journal)
        .unwrap();
    room.run(&[
        "systemd-run",
        "--quiet",
        "--unit",
        ACTIVATION,
        "sleep",
        "infinity",
    ]);

    room.systemctl(&["start", AGENT]);
    room.wait("way back", |r| r.read("/run/switched").is_some());
    assert_eq!(room.show(ACTIVATION, "ActiveState"), "inactive");
    // The systems of the try, which Nix' daemon keeps from collection.
    for system in [&old, &new] {
        let root = system
            .as_str()
            .replace("/nix/store", &format!("{STATE}/roots"));
        room.wait("link to a system", |r| fs::read_link(r.path(&root)).is_ok());
        let kept = room.run(&["nix-store", "--query", "--roots", system.as_str()]);
        assert!(kept.contains(&root), "{kept}");
    }
    // It places that when it starts.
    let vpn = ("vpn", "hunter2", "0440", "daemon");
    secrets::give(&room, etc.path(), 1, &[vpn]);
    let begun = room.show(TRY, "MainPID");
    // More often than systemd starts a unit that says nothing of it.
    for _ in 0..6 {
        room.systemctl(&["restart", AGENT]);
    }
    let killed = is_at_work(&mut room, "0");
    room.systemctl(&["kill", "--signal=KILL", AGENT]);
    is_at_work(&mut room, &killed);
    assert_eq!(room.show(TRY, "MainPID"), begun);
    fs::write(room.path("/run/go-on"), "").unwrap();

    room.wait("end of the try", |r| phase(r) == Phase::WentBack);
    assert_eq!(
        fs::read_link(room.path("/run/current-system")).unwrap(),
        Path::new(old.as_str())
    );
    assert_eq!(room.read("/run/switched").unwrap(), format!("test {old}\n"));
    let placed = room.run(&["stat", "--format=%U %G %a", SECRET]);
    assert_eq!(placed, "daemon root 440\n");
    assert_eq!(room.read(SECRET).unwrap(), "hunter2");
    // It gives files away, and can do nothing else that root can.
    is_whole(&room, AGENT, "1", "0000000000000001");
}

#[test]
fn an_evaluation_is_bounded_by_a_scope_and_ends_alone() {
    let service = modules::evaluate("unit");
    let etc = TempDir::new().unwrap();
    founding_keys::ensure(etc.path(), &"demo".parse().unwrap()).unwrap();
    let exec = service["serviceConfig"]["ExecStart"].as_str().unwrap();
    let (_, settings) = exec.split_once("/stub/fabrik.toml?").unwrap();
    let mut config: Value = serde_json::from_str(settings).unwrap();
    config["repository"] = json!({
        "url": "ssh://root@127.0.0.1:2222/etc/fabrik/repository",
        "deploy-key-file": "/etc/fabrik/deploy.key",
        "known-hosts-file": "/etc/fabrik/known_hosts",
        "poll": "1s",
    });
    config["nix"] = json!({
        "program-dir": modules::PROGRAMS,
        "signing-key-file": "/etc/fabrik/signing.key",
        "memory-max": "256MiB",
    });
    fs::write(
        etc.path().join("fabrik.toml"),
        toml::to_string(&config).unwrap(),
    )
    .unwrap();
    let hungry = "builtins.deepSeq (builtins.genList (x: builtins.genList (y: x + y) 1000) 1000000) \"1.36.3+k3s1\"";
    let hungry = commit(etc.path(), hungry);
    let exec = "/opt/evaluator /etc/fabrik/fabrik.toml";
    let mut room = Room::boot(FABRIK, &modules::unit(&service, exec), etc.path());
    serve_git(&mut room, etc.path());

    room.systemctl(&["start", FABRIK]);
    room.wait("scope with a limit", |r| limits(r).contains(&(256 << 20)));
    let told = answer(&mut room, &hungry);
    let held = told["held"][0].as_str().unwrap();
    let expected = "evaluating pool workers needed more than 256MiB: raise [nix] memory-max";
    assert!(held.starts_with(expected), "{held}");

    let good = commit(etc.path(), "\"1.36.3+k3s1\"");
    let told = answer(&mut room, &good);
    assert_eq!(told["held"], json!([]));
    let built = told["systems"][0].as_str().unwrap();
    assert_eq!(
        room.read(&format!("{built}/k3s-version")).unwrap(),
        "1.36.3+k3s1\n"
    );
    room.wait("end of all scopes", |r| limits(r).is_empty());
    is_whole(&room, FABRIK, "0", "0000000000000000");
}

/// Waits for an agent of another process than `last`; its process.
fn is_at_work(room: &mut Room, last: &str) -> String {
    room.wait("agent", |r| {
        let process = r.show(AGENT, "MainPID");
        let log = ["journalctl", "--quiet", &format!("_PID={process}")];
        ![last, "0"].contains(&process.as_str()) && r.run(&log).contains("the agent begins")
    });
    room.show(AGENT, "MainPID")
}

/// It runs, within all that its unit says, and nothing of it was killed for that; systemd has started it anew so often.
fn is_whole(room: &Room, unit: &str, anew: &str, capabilities: &str) {
    let process = room.show(unit, "MainPID");
    let status = room.run(&["cat", &format!("/proc/{process}/status")]);
    let bounded = format!("CapBnd:\t{capabilities}");
    for line in [bounded.as_str(), "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|l| l == line), "{status}");
    }
    let log = room.log(unit);
    for complaint in ["nknown", "gnoring", "SIGSYS", "core-dump"] {
        assert!(!log.contains(complaint), "{log}");
    }
    assert_eq!(room.show(unit, "NRestarts"), anew, "{log}");
}

/// A system of the room's store.
fn system(room: &Room, name: &str) -> StorePath {
    let folder = format!("/run/nixos-system-{name}");
    room.script(&format!("{folder}/bin/switch-to-configuration"), SWITCH);
    room.run(&["nix-store", "--add", &folder])
        .trim()
        .parse()
        .unwrap()
}

/// A try of `new` that was being activated when its time was over.
fn journal(room: &Room, old: &StorePath, new: &StorePath) -> Journal {
    let now = Timestamp::now();
    let boot = room.run(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let current = Try {
        ticket: 7,
        system: new.clone(),
        from: old.clone(),
        default: Some(old.clone()),
        stuck: false,
        needs: Needs::Switch,
        minor: false,
        boot: boot.trim().parse().unwrap(),
        phase: Phase::Applying,
        since: now - SignedDuration::from_mins(10),
        deadline: now - SignedDuration::from_mins(1),
        started_minor: false,
        ran: false,
        unheard: false,
        keep: false,
        attempts: 1,
        begun: Some(now - SignedDuration::from_mins(10)),
        message: String::new(),
    };
    Journal {
        ticket: 7,
        current: Some(current),
        ..Journal::default()
    }
}

fn phase(room: &Room) -> Phase {
    let journal = State::new(&room.path(STATE)).journal().unwrap();
    journal.current.unwrap().phase
}

/// What evaluations may take that are on their way, as the kernel knows it.
fn limits(room: &Room) -> Vec<u64> {
    let below = "fabrik.slice/fabrik-build.slice";
    let files = [("memory/", "memory.limit_in_bytes"), ("", "memory.max")];
    let mut limits = Vec::new();
    for (hierarchy, file) in files {
        let slice = room.path(&format!("/sys/fs/cgroup/{hierarchy}{below}"));
        for scope in fs::read_dir(slice).into_iter().flatten().flatten() {
            let limit = fs::read_to_string(scope.path().join(file)).ok();
            limits.extend(limit.and_then(|limit| limit.trim().parse::<u64>().ok()));
        }
    }
    limits
}

/// Serves what is in the room's /etc/fabrik, which `etc` is, by SSH to who has the deploy key.
fn serve_git(room: &mut Room, etc: &Path) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
    run(keygen.arg(etc.join("host.key")));
    let key = fs::read_to_string(etc.join("host.key.pub")).unwrap();
    fs::write(etc.join("known_hosts"), format!("[127.0.0.1]:2222 {key}")).unwrap();
    // An account without a password is no locked one; sshd wants one of its own, too.
    room.run(&["usermod", "--password", "*", "root"]);
    room.run(&["useradd", "--system", "--home-dir", "/run/sshd", "sshd"]);
    let sshd = "systemd-run --quiet --unit=sshd --property=RuntimeDirectory=sshd /usr/sbin/sshd -De -f /dev/null \
        -p 2222 -h /etc/fabrik/host.key -o AuthorizedKeysFile=/etc/fabrik/deploy.key.pub";
    room.run(&sshd.split_whitespace().collect::<Vec<_>>());
    room.wait("sshd", |r| r.log("sshd").contains("Server listening"));
}

/// What came of a commit.
fn answer(room: &mut Room, commit: &str) -> Value {
    let file = format!("/var/lib/fabrik/{commit}.json");
    room.wait("answer", |r| r.path(&file).exists());
    serde_json::from_str(&room.read(&file).unwrap()).unwrap()
}

/// Pushes a flake whose workers have a k3s of `version`, an expression.
fn commit(etc: &Path, version: &str) -> String {
    let system = format!("{}-linux", std::env::consts::ARCH);
    let flake = format!(
        r#"{{
  outputs = _: let version = {version}; in {{
    nixosConfigurations.workers.config = {{
      services.k3s.package.version = version;
      system.build.toplevel = derivation {{
        name = "workers";
        system = "{system}";
        builder = "/bin/sh";
        PATH = "/usr/bin";
        args = [ "-c" "mkdir $out; echo ${{version}} >$out/k3s-version" ];
      }};
    }};
  }};
}}
"#
    );
    let work = TempDir::new().unwrap();
    let repository = etc.join("repository");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(work.path());
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
        run(command.args(arguments))
    };
    let to = repository.to_str().unwrap();
    if !repository.exists() {
        git(&["init", "--quiet", "--bare", "--initial-branch=main", to]);
    }
    git(&["clone", "--quiet", to, "."]);
    git(&["checkout", "--quiet", "-B", "main"]);
    fs::write(work.path().join("flake.nix"), flake).unwrap();
    git(&["add", "flake.nix"]);
    git(&["commit", "--quiet", "--message=change"]);
    git(&["push", "--quiet", "origin", "main"]);
    git(&["rev-parse", "HEAD"]).trim().to_owned()
}
