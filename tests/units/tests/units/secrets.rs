//! `fabrik-secrets.service`: what a node was given before is in its memory before a unit reads it, and nothing else of the
//! machine is within its reach.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use fabrik::delivery::{Addressee, Delivery, SecretFile, seal};
use fabrik::node::state::State;
use fabrik::secrets::{Secret, founding_keys};
use fabrik::signing::SigningKey;
use fabrik_core::id::SecretName;
use serde_json::json;
use tempfile::TempDir;

use crate::units::modules;
use crate::units::room::Room;

pub const STATE: &str = "/var/lib/fabrik-agent";
const FOLDER: &str = "/run/fabrik/secrets";
const CLUSTER: &str = "abcdefgh01234567";
const NODE: &str = "node-1";
const SECRETS: &str = "fabrik-secrets.service";
const READER: &str = "reader.service";
const PROBE: &str = "probe.service";
/// What the room starts at a boot.
const BOOT: &str = "boot.target";
const UNITS: [(&str, &str); 3] = [
    (
        READER,
        "[Unit]\nAfter=fabrik-secrets.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nUser=daemon\n\
         ExecStart=/usr/bin/cat /run/fabrik/secrets/vpn\n",
    ),
    (
        "reader.path",
        "[Path]\nPathExists=/run/fabrik/secrets/vpn\n",
    ),
    (
        BOOT,
        "[Unit]\nWants=reader.service fabrik-secrets.service\n",
    ),
];
/// Tells what it is, and which of these it can do: its work, and then what is none of it.
const CAN: &str = r#"cd /run/fabrik/secrets || exit
grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status >told
can() { if "$@"; then echo "$*" >>told; fi; }
can cp /dev/null own
can chmod 400 own
can chown daemon own
can cat own
can chmod 600 own
can cp /dev/null ../own
can cp /dev/null /run/own
can cp /dev/null /etc/fabrik/own
can cp /dev/null /var/lib/own
can cp /dev/null /root/own
can mknod node c 1 3
can mount --bind . .
can chroot / true
can unshare --mount true
can setpriv --reuid=daemon true
can hostname other
"#;
const WORK: &str = "\
CapBnd:\t0000000000000001
NoNewPrivs:\t1
Seccomp:\t2
cp /dev/null own
chmod 400 own
chown daemon own
";

#[test]
fn what_a_node_was_given_is_in_memory_before_a_unit_reads_it() {
    let service = modules::evaluate("secretsUnit");
    // A unit that comes after it is wanted there, too.
    assert_eq!(service["wantedBy"], json!(["multi-user.target"]));
    let exec = service["serviceConfig"]["ExecStart"].as_str().unwrap();
    let exec = exec.replace("/stub/fabrik/bin/fabrik", "/opt/fabrik");
    let etc = TempDir::new().unwrap();
    configure(etc.path());
    let mut room = Room::boot(SECRETS, &modules::unit(&service, &exec), etc.path());
    for (name, text) in UNITS {
        put(&room, name, text);
    }
    let probe = modules::unit(&service, "/usr/bin/sh /stub/can");
    put(&room, PROBE, &probe);
    room.systemctl(&["daemon-reload"]);

    // Nothing was given yet: who needs it waits for its file.
    room.systemctl(&["start", SECRETS, "reader.path"]);
    assert_eq!(room.show(SECRETS, "ActiveState"), "active");
    assert_eq!(stat(&room, &format!("{STATE}/age.key")), "root root 600");
    assert_eq!(room.show(READER, "ActiveState"), "inactive");
    let vpn = ("vpn", "hunter2", "0440", "daemon");
    let registry = ("registry", "hunter3", "0400", "root");
    let wg0 = ("wg0", "hunter4", "0400", "wg");
    give(&room, etc.path(), 1, &[vpn, registry, wg0]);
    room.systemctl(&["restart", SECRETS]);
    room.wait("reader", |r| r.show(READER, "ActiveState") == "active");

    room.systemctl(&["stop", "reader.path", READER, SECRETS]);
    fs::remove_dir_all(room.path("/run/fabrik")).unwrap();
    room.systemctl(&["start", BOOT]);
    assert_eq!(room.show(READER, "ActiveState"), "active");
    assert_eq!(room.log(READER).matches("hunter2").count(), 2);
    is_in_place(&room);
    an_owner_who_comes_later_gets_his(&room);
    what_is_taken_away_goes_and_the_rest_stays(&room, etc.path(), vpn);
    let log = room.log(SECRETS);
    for complaint in [
        "nknown",
        "gnoring",
        "SIGSYS",
        "core-dump",
        "ermission denied",
    ] {
        assert!(!log.contains(complaint), "{log}");
    }
    the_sandbox_lets_it_do_its_work_and_nothing_more(&room);
}

/// By mode and owner, in memory, and in the clear nowhere else.
fn is_in_place(room: &Room) {
    for (path, wanted) in [
        ("/run/fabrik", "root root 755"),
        // Nobody sees which there are.
        (FOLDER, "root root 711"),
        ("/run/fabrik/secrets/vpn", "daemon root 440"),
        ("/run/fabrik/secrets/registry", "root root 400"),
    ] {
        assert_eq!(stat(room, path), wanted, "{path}");
    }
    let on = room.run(&["stat", "--file-system", "--format=%T", FOLDER]);
    assert_eq!(on, "tmpfs\n");
    let mut clear = room.log(SECRETS);
    for entry in fs::read_dir(room.path(STATE)).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap();
        clear.push_str(&String::from_utf8_lossy(&content));
    }
    assert!(clear.contains("AGE-SECRET-KEY-"), "the search is blind");
    assert!(!clear.contains("hunter"), "{clear}");
}

fn an_owner_who_comes_later_gets_his(room: &Room) {
    let file = format!("{FOLDER}/wg0");
    assert_eq!(stat(room, &file), "root root 400");
    let log = room.log(SECRETS);
    assert!(log.contains("belongs to root alone until then"), "{log}");
    room.run(&["useradd", "--system", "wg"]);
    room.systemctl(&["restart", SECRETS]);
    assert_eq!(stat(room, &file), "wg root 400");
}

fn what_is_taken_away_goes_and_the_rest_stays(room: &Room, keys: &Path, vpn: File<'_>) {
    let inode = || {
        let file = fs::metadata(room.path(FOLDER).join("vpn")).unwrap();
        file.ino()
    };
    let before = inode();
    // As when another system brings another unit.
    room.systemctl(&["stop", SECRETS]);
    assert_eq!(names(room), [".placed", "registry", "vpn", "wg0"]);
    give(room, keys, 2, &[vpn]);
    room.systemctl(&["start", SECRETS]);
    assert_eq!(names(room), [".placed", "vpn"]);
    assert_eq!(inode(), before);

    // It is told, and no switch fails by it.
    let other = TempDir::new().unwrap();
    founding_keys::ensure(other.path(), &"demo".parse().unwrap()).unwrap();
    give(room, other.path(), 3, &[("vpn", "forged", "0444", "root")]);
    room.systemctl(&["restart", SECRETS]);
    let log = room.log(SECRETS);
    assert!(log.contains("are not signed by"), "{log}");
    assert_eq!(names(room), [".placed", "vpn"]);
    assert_eq!(inode(), before);
}

/// In the very same unit, but for what is run.
fn the_sandbox_lets_it_do_its_work_and_nothing_more(room: &Room) {
    room.script("/stub/can", CAN);
    room.systemctl(&["start", PROBE]);
    let told = format!("{FOLDER}/told");
    let log = room.log(PROBE);
    assert_eq!(room.read(&told).unwrap(), WORK, "{log}");
    // Who is in no unit can do all of it.
    room.run(&["sh", "/stub/can"]);
    let can = room.read(&told).unwrap();
    for what in CAN.lines().filter_map(|line| line.strip_prefix("can ")) {
        assert!(can.lines().any(|line| line == what), "not {what}: {can}");
    }
}

/// Its name, its value, its mode and its owner.
type File<'a> = (&'a str, &'a str, &'a str, &'a str);

/// What the agent has fetched before, for the key that it has made. `keys` are the cluster's.
pub fn give(room: &Room, keys: &Path, sequence: u64, files: &[File<'_>]) {
    let key = room.read(&format!("{STATE}/age.key")).unwrap();
    let recipient = key.lines().next().unwrap().rsplit(' ').next().unwrap();
    let file = |(name, value, mode, owner): &File<'_>| {
        let file = SecretFile {
            value: Secret::new(value.as_bytes().to_vec()),
            mode: mode.parse().unwrap(),
            owner: (*owner).to_owned(),
            group: "root".to_owned(),
        };
        (name.parse::<SecretName>().unwrap(), file)
    };
    let delivery = Delivery {
        digest: "0".repeat(64).parse().unwrap(),
        sequence,
        files: files.iter().map(file).collect(),
    };
    let (cluster, node) = (CLUSTER.parse().unwrap(), NODE.parse().unwrap());
    let to = Addressee {
        cluster: &cluster,
        node: &node,
    };
    let signer = SigningKey::read(&keys.join(founding_keys::SIGNING_KEY_FILE)).unwrap();
    let sealed = seal(&signer, &recipient.parse().unwrap(), to, &delivery).unwrap();
    State::new(&room.path(STATE))
        .write_secrets(&sealed)
        .unwrap();
}

/// Makes the cluster's keys in `etc`, and an agent's configuration that knows them.
pub fn configure(etc: &Path) {
    let keys = founding_keys::ensure(etc, &"demo".parse().unwrap()).unwrap();
    let config = json!({
        "node": NODE,
        "state-dir": STATE,
        "kubeconfig": "/etc/fabrik/kubelet.kubeconfig",
        "front": "127.0.0.1:9644",
        "cluster": {"name": "demo", "id": CLUSTER, "public-key": keys.signing_key.trim()},
        "cache": {"urls": ["https://10.0.1.1:9642"]},
        "nix": {"program-dir": modules::PROGRAMS},
    });
    let text = toml::to_string(&config).unwrap();
    fs::write(etc.join("agent.toml"), text).unwrap();
}

fn put(room: &Room, unit: &str, text: &str) {
    let units = room.path("/run/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::write(units.join(unit), text).unwrap();
}

/// Whose it is, and its mode.
fn stat(room: &Room, path: &str) -> String {
    let shown = room.run(&["stat", "--format=%U %G %a", path]);
    shown.trim().to_owned()
}

fn names(room: &Room) -> Vec<String> {
    let listed = room.run(&["ls", "--almost-all", FOLDER]);
    listed.lines().map(str::to_owned).collect()
}
