//! A machine of the user's own with a real sshd that no emulator made, a person's ssh-agent, and a nixos-anywhere and a Nix that
//! note how they are called.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::machines::{Held, QUICK, keygen, serve};
use super::place::text;
use super::world::{Ran, World, free_port, left};

/// It is as little choosy about host keys as the real one asks its ssh to be, and goes to that port.
const ANYWHERE: &str = r#"#!/bin/sh
ssh -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -p PORT root@127.0.0.1 true 2>DIR/refused || exit 1
printf '%s\n' "$@" >>DIR/anywhere
echo nixos >DIR/attic-os
"#;
const NIX: &str = r#"#!/bin/sh
echo "$*" >>DIR/nix
case "$*" in
*build*) for last; do :; done; echo "/nix/store/built-${last##*.}" ;;
esac
"#;

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

struct Own {
    world: World,
    port: u16,
    _agent: Agent,
    _sshd: Held,
}

impl Own {
    /// A repository without Hetzner, whose only server is the machine `attic`.
    async fn start() -> Self {
        let mut world = World::start().await;
        let dir = world.machine_file("");
        let dir = dir.to_str().unwrap().trim_end_matches('/');
        for key in ["attic-host", "other-host", "person"] {
            keygen(&world.machine_file(key));
        }
        fs::write(world.machine_file("attic-os"), "debian").unwrap();
        let script = world.machine_file("attic.sh");
        fs::write(&script, include_str!("attic.sh")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let (port, sshd) = sshd(&world, "attic-host");

        let socket = world.machine_file("agent");
        let agent = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn();
        let agent = Agent(agent.expect("ssh-agent is needed"));
        let mut tries = 0..100;
        let add = || {
            let mut add = Command::new("ssh-add");
            add.arg("-q").arg(world.machine_file("person"));
            add.env("SSH_AUTH_SOCK", &socket).status().unwrap()
        };
        while !add().success() {
            tries.next().expect("ssh-agent does not answer");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        world.env("SSH_AUTH_SOCK", socket.to_str().unwrap());
        world.program("nix", &NIX.replace("DIR", dir));
        let own = Self {
            world,
            port,
            _agent: agent,
            _sshd: sshd,
        };
        let key = fs::read_to_string(own.world.machine_file("attic-host.pub")).unwrap();
        own.name(&key);
        own.anywhere_goes_to(port);
        own
    }

    fn anywhere_goes_to(&self, port: u16) {
        let dir = self.world.machine_file("");
        let text = ANYWHERE.replace("DIR", dir.to_str().unwrap().trim_end_matches('/'));
        let text = text.replace("PORT", &port.to_string());
        self.world.program("nixos-anywhere", &text);
    }

    /// Writes and pushes a specification that knows the machine by this host key.
    fn name(&self, host_key: &str) {
        let spec = format!(
            "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36.3+k3s1\"\n[firewall]\nssh-from = [\"127.0.0.0/8\"]\n\
             [servers.machines.attic]\naddress = \"127.0.0.1\"\nport = {}\nhost-key = \"{}\"\n\
             disk = \"/dev/disk/by-id/nvme-1\"\nnode-ip = \"10.0.1.20\"\n\
             [ssh-keys]\nme = \"{}\"\n",
            self.port,
            host_key.trim(),
            self.file("person.pub").trim()
        );
        self.world.write("cluster.toml", &spec);
        self.world.commit("Have a machine of my own");
        self.world.push();
    }

    async fn seed(&self) -> Ran {
        self.world.seed(&["--yes", "demo"]).await
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.world.machine_file(name)).unwrap_or_default()
    }

    /// It has all that makes it the cluster, nothing was asked of Hetzner, and nobody else has anything of it.
    async fn is_whole(&self) {
        let bundle: Value = serde_json::from_str(&self.file("bundle.json")).unwrap();
        let identity = self.file("attic/var/lib/fabrik-identity/identity.json");
        let identity: Value = serde_json::from_str(&identity).unwrap();
        assert_eq!(identity["node"], "demo-servers-attic");
        assert_eq!(identity["addresses"]["private"], "10.0.1.20");
        assert!(identity["server"].as_u64().unwrap() >= 1 << 53);
        let cluster = &identity["control-plane"];
        assert_eq!(bundle["cluster"]["id"], cluster["id"]);
        assert_eq!(
            (&cluster["name"], &cluster["is-first"]),
            (&json!("demo"), &json!(true))
        );
        assert_eq!(self.file("attic/root/.ssh/authorized_keys"), "");
        let kubeconfig = fs::read_to_string(self.world.state_dir().join("kubeconfig")).unwrap();
        assert_eq!(kubeconfig, "server: https://127.0.0.1:6443\n");
        let kept: BTreeSet<String> = fs::read_dir(self.world.state_dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
        assert_eq!(kept, ["kubeconfig", "lock", "seed.json"]);
        assert_eq!(left(&self.world.state().await), "");
    }
}

/// Shows that host key, and lets in whom the machine lets in.
fn sshd(world: &World, host_key: &str) -> (u16, Held) {
    let dir = world.machine_file("");
    let dir = dir.to_str().unwrap().trim_end_matches('/');
    let port = free_port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/{host_key}\n\
         AuthorizedKeysFile {dir}/person.pub {dir}/attic/root/.ssh/authorized_keys\n\
         ForceCommand {dir}/attic.sh {dir}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         PermitRootLogin prohibit-password\nSetEnv HOME={dir}\n{QUICK}"
    );
    let path = world.machine_file(&format!("{host_key}.config"));
    fs::write(&path, config).unwrap();
    (port, serve(&path, ([127, 0, 0, 1], port).into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_one_s_own_becomes_the_first_server_without_hetzner() {
    let own = Own::start().await;
    own.world.authorize_git();
    let unsaid = own.world.seed(&[]).await;
    assert!(
        !unsaid.is_ok() && unsaid.err.contains("--yes demo"),
        "{unsaid}"
    );
    assert_eq!(
        own.file("anywhere"),
        "",
        "nothing is wiped before somebody agrees"
    );

    let seeded = own.seed().await;
    assert!(seeded.is_ok(), "{seeded}");
    for told in [
        "ok     machine     attic answers by its host key: debian, x86_64-linux, 16 GB of memory",
        "attic at 127.0.0.1: ALL OF THIS IS WIPED on /dev/disk/by-id/nvme-1:\n  sda 1000.0 GB, ext4",
        "handed the cluster over",
        "demo is up.",
    ] {
        assert!(seeded.out.contains(told), "{told}:\n{seeded}");
    }
    own.is_whole().await;
    let call = own.file("anywhere");
    let call: Vec<&str> = call.lines().collect();
    let expected = [
        "--store-paths",
        "/nix/store/built-disk",
        "/nix/store/built-toplevel",
        "--copy-host-keys",
        "--ssh-port",
        &own.port.to_string(),
        "--target-host",
        "root@127.0.0.1",
    ];
    assert_eq!(call, expected);
    let repository = own.world.repository();
    let built = own.file("nix");
    for what in [
        "fabrik.machines.attic.disk",
        "nixosConfigurations.servers.config.system.build.toplevel",
    ] {
        let line = built
            .lines()
            .find(|line| line.ends_with(&format!("#{what}")));
        let of = format!("git+file://{repository}?rev=");
        assert!(line.is_some_and(|line| line.contains(&of)), "{built}");
    }

    let again = own.seed().await;
    assert!(
        again.is_ok() && again.out.contains("demo was seeded before"),
        "{again}"
    );
    // A copy of the repository, whose cluster has the same name.
    let undo = &["--undo", "--yes", "demo"];
    let copy = own.world.seed_of("copy.git", undo).await;
    assert!(
        copy.err.contains("is about a cluster of the same name"),
        "{copy}"
    );
    assert!(own.world.state_dir().exists());
    // Somebody has taken [hetzner] out after something was made there.
    let record = own.world.state_dir().join("seed.json");
    let text = fs::read_to_string(&record).unwrap();
    let mut made: Value = serde_json::from_str(&text).unwrap();
    made["at-hetzner"] = json!(true);
    fs::write(&record, made.to_string()).unwrap();
    let refused = own.world.seed(undo).await;
    assert!(
        refused.err.contains("write [hetzner] there again"),
        "{refused}"
    );
    fs::write(&record, text).unwrap();
    let undone = own.world.seed(undo).await;
    assert!(
        undone.is_ok() && undone.out.contains("attic) stay as they are"),
        "{undone}"
    );
    assert!(!own.world.state_dir().exists());
    // What the machine has is nobody's to wipe by the same command.
    own.world.authorize_git();
    let refused = own.seed().await;
    assert!(
        !refused.is_ok()
            && refused
                .out
                .contains("is the node demo-servers-attic of a cluster already"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_each_step_a_machine_comes_to_the_same_end() {
    let own = Own::start().await;
    own.world.authorize_git();
    let mut killed_after = BTreeSet::new();
    let whole = &["--yes", "demo"];
    while !own
        .world
        .seed_and_kill(whole, &mut killed_after)
        .await
        .is_ok()
    {}
    assert!(killed_after.len() >= 6, "{killed_after:?}");
    own.is_whole().await;
    assert_eq!(own.file("anywhere").matches("--store-paths").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_nixos_switches_and_is_not_wiped() {
    let own = Own::start().await;
    own.world.authorize_git();
    fs::write(own.world.machine_file("attic-os"), "nixos").unwrap();
    let unsaid = own.world.seed(&[]).await;
    assert!(!unsaid.is_ok(), "{unsaid}");
    assert!(!own.file("asked").contains("switch"), "nobody has agreed");
    let seeded = own.seed().await;
    assert!(
        seeded.is_ok() && seeded.out.contains("no disk is wiped"),
        "{seeded}"
    );
    assert_eq!(own.file("anywhere"), "");
    let switch = "/nix/store/built-toplevel/bin/switch-to-configuration switch";
    assert!(own.file("asked").contains(switch));
    own.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_new_firewall_would_shut_this_laptop_out_is_not_wiped() {
    let own = Own::start().await;
    own.world.authorize_git();
    fs::write(own.world.machine_file("from"), "2001:db8::7").unwrap();
    let refused = own.seed().await;
    assert!(!refused.is_ok(), "{refused}");
    let why = "wrong  machine     attic would let this laptop in no more: it sees this laptop as 2001:db8::7";
    assert!(refused.out.contains(why), "{refused}");
    assert!(refused.out.contains("\"2001:db8::7/128\""), "{refused}");
    assert_eq!(own.file("anywhere"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_let_the_laptop_in_is_told_again_once_it_does() {
    let own = Own::start().await;
    own.world.authorize_git();
    own.world.flag("deaf", true);
    let shut_out = own
        .world
        .seed(&["--yes", "demo", "--boot-limit", "3s"])
        .await;
    let why = "does the new system's sshd read that file?";
    assert!(
        !shut_out.is_ok() && shut_out.err.contains(why),
        "{shut_out}"
    );
    assert_eq!(
        own.file("attic/var/lib/fabrik-identity/identity.json"),
        "",
        "another system may take its place yet"
    );
    own.world.flag("deaf", false);
    let seeded = own.seed().await;
    assert!(seeded.is_ok(), "{seeded}");
    own.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_own_servers_would_make_anew_is_not_removed() {
    let own = Own::start().await;
    own.world.edit(
        "[firewall]",
        "[hetzner]\ntoken = { file = \"secrets/hetzner.yaml\", key = \"token\" }\n[firewall]",
    );
    own.world.edit("10.0.1.20", "10.0.9.20");
    let labels = json!({"fabrik.dev/cluster": "abcdefgh01234567"});
    let network = json!({"name": "demo", "ip_range": "10.0.0.0/16", "labels": labels});
    own.world.post("networks", network).await;
    for refused in [
        own.world.destroy(&[]).await,
        own.world.seed(&["--undo", "--yes", "demo"]).await,
    ] {
        let why = "nothing was done: the control plane is machines of yours (attic)";
        assert!(!refused.is_ok() && refused.err.contains(why), "{refused}");
    }
    assert_eq!(left(&own.world.state().await), "1 networks");
    let destroyed = own.world.destroy(&["--stopped"]).await;
    assert!(destroyed.is_ok(), "{destroyed}");
    assert_eq!(left(&own.world.state().await), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn nixos_anywhere_takes_the_pinned_host_key_alone() {
    let own = Own::start().await;
    own.world.authorize_git();
    let (port, _between) = sshd(&own.world, "other-host");
    own.anywhere_goes_to(port);
    let seeded = own.seed().await;
    assert!(
        !seeded.is_ok() && seeded.err.contains("nixos-anywhere failed"),
        "{seeded}"
    );
    let refused = own.file("refused");
    assert!(
        refused.contains("Host key verification failed"),
        "{refused}"
    );
    assert!(!own.file("asked").lines().any(|line| line == "true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_shows_another_host_key_is_asked_nothing() {
    let own = Own::start().await;
    own.world.authorize_git();
    own.name(&own.file("other-host.pub"));
    let seeded = own.seed().await;
    assert!(!seeded.is_ok(), "{seeded}");
    let fingerprint = Command::new("ssh-keygen")
        .arg("-lf")
        .arg(own.world.machine_file("other-host.pub"))
        .output();
    let fingerprint = text(&fingerprint.unwrap().stdout);
    let fingerprint = fingerprint.split_whitespace().nth(1).unwrap();
    let told = format!("cluster.toml pins {fingerprint}: nothing was sent");
    assert!(seeded.out.contains("shows another host key"), "{seeded}");
    assert!(seeded.out.contains(&told), "{told}:\n{seeded}");
    assert_eq!(
        (own.file("asked"), own.file("anywhere")),
        (String::new(), String::new())
    );
}
