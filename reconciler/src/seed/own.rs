//! A first server that is a machine of the user's own: looked at, installed where it has to be, and told who it is.
//!
//! All goes by its pinned host key, but for what nixos-anywhere does: that takes any host key, whatever options of ssh it is given
//! (its first ones count, and they are `StrictHostKeyChecking=no`; nixos-anywhere.sh, `sshArgs`). So it is given nothing that is
//! secret, and a machine counts as installed only when it answers by the pinned key.

use std::process::{Output, Stdio};
use std::time::Duration;

use fabrik_core::id::{MachineName, NodeName};
use fabrik_core::seed::own::{First, Next, Seen, Way, next, way};
use fabrik_core::seed::{Stage, Step};
use fabrik_core::spec::Spec;
use ssh_key::{HashAlg, PublicKey};
use tempfile::TempDir;
use tokio::process::Command;

use super::carry_out::{Seed, words};
use super::error::last_line;
use super::progress::{self, Task};
use super::server::{Conversation, Door};
use super::ssh::{Failure, Ssh, heard, tell};
use super::state::{Host, Keys, State};
use super::{SeedError, confirm};
use crate::handover::host_key;
use crate::node::identify::{self, Addresses, Identity};
use crate::secrets::Secret;

/// The name of the host in its file.
const ALIAS: &str = "machine";
/// It is a machine that runs; to be told who it is takes a moment.
const TELL_LIMIT: Duration = Duration::from_secs(120);
/// What is looked at, a line each; then what is on the disk, as people read it. `$1` is the disk.
const LOOK: &str = r#"
    . /etc/os-release
    echo "os=$ID"
    if command -v fabrik >/dev/null; then echo fabrik=yes; fi
    if [ -e /var/lib/fabrik-identity/identity.json ] || [ -e /var/lib/rancher/k3s ]; then echo cluster=yes; fi
    if [ "$(lsblk --nodeps --noheadings --output TYPE "$1" 2>/dev/null)" = disk ]; then
        echo disk=yes
        echo
        lsblk --output NAME,SIZE,TYPE,FSTYPE,LABEL,MODEL "$1"
    fi
"#;

/// What a look has shown.
pub struct Found {
    /// In a line.
    pub says: String,
    /// What is on the disk, where that is wiped.
    pub wiped: Option<String>,
}

/// Looks at it, and changes nothing. The inner error is for people.
pub async fn look(
    state: &State,
    keys: &Keys,
    first: &First,
) -> Result<Result<Found, String>, SeedError> {
    if state.record.stage > Stage::Met && state.record.server == Some(first.id) {
        let says = format!("{} is installed", first.name);
        return Ok(Ok(Found { says, wiped: None }));
    }
    if lets_in(&installed(state, keys, first)?).await? {
        let says = format!("{} is installed, and waits", first.name);
        return Ok(Ok(Found { says, wiped: None }));
    }
    let ssh = of_person(state, first)?;
    let looked = ssh.run(&as_root(first, LOOK, &first.machine.disk)).await?;
    let output = match looked {
        Ok(output) if output.status.success() => output,
        Ok(output) => return Ok(Err(last_line(&output.stderr))),
        Err(Failure::HostKey) => return Ok(Err(other_host_key(first))),
        Err(failure) => return Ok(Err(ssh.error(&failure, ADVICE).to_string())),
    };
    let (seen, disk) = read(&output);
    Ok(match way(&seen, &first.machine) {
        Err(refusal) => Err(refusal.to_string()),
        Ok(Way::Tell) => Ok(Found {
            says: format!(
                "{} runs a system of fabrik's, and nothing is wiped",
                first.name
            ),
            wiped: None,
        }),
        Ok(Way::Wipe) => Ok(Found {
            says: format!(
                "{} answers by its host key, and runs {}",
                first.name, seen.os
            ),
            wiped: Some(disk),
        }),
    })
}

/// Step by step, until nothing is left to do. `may_wipe`: somebody was shown what is on the disk, and has agreed.
pub async fn go(seed: &mut Seed<'_>, first: &First, may_wipe: bool) -> Result<(), SeedError> {
    loop {
        let step = match next(first, &seed.state.laptop())? {
            Next::Done => return Ok(()),
            Next::Install => {
                install(seed, first, may_wipe).await?;
                continue;
            }
            Next::Do(step) => step,
        };
        let task = Task::begin(words(&step));
        if step == Step::ForgetSecrets {
            seed.state.forget_secrets()?;
        } else {
            let door = door(first);
            let mut conversation = Conversation::new(seed, first.id, door);
            conversation.carry_out(&step, &task).await?;
        }
        task.end()?;
    }
}

/// Removes what the laptop keeps of a cluster that has nothing at Hetzner. Its machines nobody undoes from here.
pub fn forget(spec: &Spec, state: Option<State>, said: Option<&str>) -> Result<(), SeedError> {
    let names: Vec<&str> = spec.own_servers.keys().map(MachineName::as_str).collect();
    progress::tell(format_args!(
        "{} has nothing at Hetzner. What this laptop keeps of it is removed. Its machines ({}) stay as they are: install them \
         anew, or wipe their disks, by hand.\n",
        spec.name,
        names.join(", ")
    ))?;
    confirm::ask(&spec.name, said)?;
    state.map_or(Ok(()), State::forget)
}

/// Until it answers by the temporary key, which it was given together with who it is.
async fn install(seed: &mut Seed<'_>, first: &First, may_wipe: bool) -> Result<(), SeedError> {
    let task = Task::begin(format!("{} knows who it is", first.name));
    seed.state.reach(first.id, Stage::Met)?;
    let installed = installed(&seed.state, &seed.keys, first)?;
    if !lets_in(&installed).await? {
        let files = files(seed, first)?;
        let ssh = of_person(&seed.state, first)?;
        // It is asked again: much may have happened since somebody has agreed.
        let output = ssh.say(&as_root(first, LOOK, &first.machine.disk)).await?;
        let (seen, _) = parse(&output);
        let failed = |why: String| SeedError::Machine {
            about: first.name.to_string(),
            why,
        };
        match way(&seen, &first.machine).map_err(|refusal| failed(refusal.to_string()))? {
            Way::Tell => tell_who(&ssh, first, &files).await?,
            Way::Wipe if may_wipe => wipe(seed, first, &files, &task).await?,
            Way::Wipe => {
                let why = "it ran a system of fabrik's a moment ago, and runs another one now";
                return Err(failed(why.to_owned()));
            }
        }
        let limit = seed.options.boot_limit;
        installed.answers(limit, ADVICE).await?;
    }
    let record = &mut seed.state.record;
    record.host_key = Some(first.machine.host_key.clone());
    record.address = Some(first.machine.address.clone());
    seed.state.reach(first.id, Stage::Trusted)?;
    Ok(task.end()?)
}

/// What it finds on its disk when it boots: who it is, as it would have kept it itself, and whom it lets in. No secret.
fn files(seed: &Seed<'_>, first: &First) -> Result<TempDir, SeedError> {
    let dir = tempfile::tempdir()?;
    let cluster = &seed.state.record.cluster_id;
    let addresses = Addresses {
        private: first.machine.node_ip,
        public: None,
        ipv6: None,
    };
    let node: NodeName = first.node.clone();
    let of = (seed.spec.name.clone(), cluster.clone());
    let identity = Identity::of_first_server(first.id, addresses, node, of);
    let kept = identify::keep(dir.path(), &identity).map_err(|error| error.to_string());
    let key = &seed.keys.temporary_public;
    kept.and_then(|()| host_key::let_in(dir.path(), key).map_err(|error| error.to_string()))
        .map_err(|why| SeedError::Machine {
            about: first.name.to_string(),
            why,
        })?;
    Ok(dir)
}

/// Of a machine that runs a system of fabrik's already.
async fn tell_who(ssh: &Ssh, first: &First, files: &TempDir) -> Result<(), SeedError> {
    const TAKE: &str =
        "tar -C / -x --no-same-owner --no-overwrite-dir && systemctl restart fabrik-identity";
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(files.path()).args(["-c", "."]);
    let packed = tar.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let packed = packed.map_err(SeedError::missing("tar"))?;
    let line = as_root(first, TAKE, "");
    let mut command = ssh.command(&line);
    command.stdin(Stdio::piped());
    let mut child = command.spawn().map_err(SeedError::missing("ssh"))?;
    tell(&mut child, &Secret::new(packed.stdout)).await;
    let ended = tokio::time::timeout(TELL_LIMIT, child.wait_with_output()).await;
    let output = match ended {
        Ok(output) => heard(output.map_err(SeedError::missing("ssh"))?),
        Err(_elapsed) => Err(Failure::Silent("no end in time".to_owned())),
    };
    let output = output.map_err(|failure| ssh.error(&failure, ADVICE))?;
    ssh.expect_success("to tell it who it is", output).map(drop)
}

/// By nixos-anywhere: it boots an installer, wipes the disk, puts the system of the servers and the files on it, and reboots.
async fn wipe(
    seed: &Seed<'_>,
    first: &First,
    files: &TempDir,
    task: &Task,
) -> Result<(), SeedError> {
    const PROGRAM: &str = "nixos-anywhere";
    let machine = &first.machine;
    task.tell(&format!("{PROGRAM} installs {}", first.name))?;
    let mut flake = seed
        .options
        .dir
        .canonicalize()
        .map_err(SeedError::file(&seed.options.dir))?;
    flake.as_mut_os_string().push("#servers");
    let mut command = Command::new(PROGRAM);
    command
        .arg("--flake")
        .arg(flake)
        .args([
            "--target-host",
            &format!("{}@{}", machine.user, machine.address),
        ])
        .args(["--ssh-port", &machine.port.to_string()])
        // The pinned one stays its own.
        .arg("--copy-host-keys")
        .arg("--extra-files")
        .arg(files.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let status = command
        .status()
        .await
        .map_err(SeedError::missing(PROGRAM))?;
    if status.success() {
        return Ok(());
    }
    Err(SeedError::Machine {
        about: first.name.to_string(),
        why: format!("{PROGRAM} ended with {status} (see above)"),
    })
}

/// With the temporary key, as root, when its system is there.
fn installed(state: &State, keys: &Keys, first: &First) -> Result<Ssh, SeedError> {
    Ok(Ssh {
        user: "root".to_owned(),
        key: Some(keys.temporary.clone()),
        ..of_person(state, first)?
    })
}

/// With the person's own keys, by the pinned host key alone.
fn of_person(state: &State, first: &First) -> Result<Ssh, SeedError> {
    let machine = &first.machine;
    Ok(Ssh {
        about: "the machine",
        address: machine.address.clone(),
        port: machine.port,
        user: machine.user.clone(),
        key: None,
        alias: ALIAS,
        known_hosts: state.known_host(Host::Machine, ALIAS, Some(&machine.host_key))?,
        learns: false,
    })
}

fn other_host_key(first: &First) -> String {
    let machine = &first.machine;
    let key = PublicKey::from_openssh(&machine.host_key);
    let known = key.map_or_else(
        |_| "no key".to_owned(),
        |key| key.fingerprint(HashAlg::Sha256).to_string(),
    );
    format!(
        "{} shows ANOTHER HOST KEY than cluster.toml names for it ({known}). Nothing was sent. Somebody stands in between, or it \
         was made anew: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its own console says which it has",
        machine.address
    )
}

async fn lets_in(ssh: &Ssh) -> Result<bool, SeedError> {
    let tried = ssh.run("true").await?;
    Ok(tried.is_ok_and(|output| output.status.success()))
}

fn door(first: &First) -> Door {
    Door {
        address: first.machine.address.clone(),
        port: first.machine.port,
        advice: ADVICE.to_owned(),
    }
}

const ADVICE: &str = "Does it run, does this laptop reach it there, is that address in [firewall] ssh-from, and do your SSH keys \
                      let you in? Then repeat this";

/// A script and its one word, for a shell that may do all.
fn as_root(first: &First, script: &str, word: &str) -> String {
    let sudo = if first.machine.user == "root" {
        ""
    } else {
        "sudo -n "
    };
    // No script of ours has a quote of this kind, and a disk has none (`spec::parse`).
    format!("{sudo}sh -c '{script}' sh '{word}'")
}

fn read(output: &Output) -> (Seen, String) {
    parse(&output.stdout)
}

/// What a look has printed, without what could mislead a terminal.
fn parse(told: &[u8]) -> (Seen, String) {
    let text = String::from_utf8_lossy(told);
    let (facts, disk) = text.split_once("\n\n").unwrap_or((&text, ""));
    let is = |fact: &str| facts.lines().any(|line| line == fact);
    let os = facts.lines().find_map(|line| line.strip_prefix("os="));
    let shown = |text: &str| -> String {
        let fits = |c: &char| *c == '\n' || !c.is_control();
        text.chars().filter(fits).collect()
    };
    let seen = Seen {
        os: shown(os.unwrap_or("an unknown system")),
        has_fabrik: is("fabrik=yes"),
        has_cluster: is("cluster=yes"),
        has_disk: is("disk=yes"),
    };
    (seen, shown(disk.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_tells_is_read_and_can_t_draw_on_a_terminal() {
        let told = b"os=debian\ndisk=yes\n\nNAME SIZE\nsda \x1b[2J1T\n";
        let (seen, disk) = parse(told);
        let expected = Seen {
            os: "debian".to_owned(),
            has_fabrik: false,
            has_cluster: false,
            has_disk: true,
        };
        assert_eq!((seen, disk.as_str()), (expected, "NAME SIZE\nsda [2J1T"));
        let (seen, disk) = parse(b"");
        assert!(!seen.has_disk && disk.is_empty());
    }
}
