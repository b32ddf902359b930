//! The machines behind the emulator's servers: each has a real sshd while it runs, on its own address.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const SCRIPTS: [(&str, &str); 5] = [
    ("programs/curl", include_str!("programs/curl")),
    ("programs/disk", include_str!("programs/disk")),
    ("rescue-root.sh", include_str!("rescue-root.sh")),
    ("rescue.sh", include_str!("rescue.sh")),
    ("first-server.sh", include_str!("first-server.sh")),
];
/// For an sshd's configuration: OpenSSH's own choice takes a tenth of a second of each session.
pub const QUICK: &str = "KexAlgorithms curve25519-sha256\n";
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What `programs/disk` is called as.
const DISK_PROGRAMS: [&str; 15] = [
    "wipefs",
    "sgdisk",
    "udevadm",
    "lsblk",
    "mkfs.vfat",
    "mkfs.ext4",
    "mount",
    "fallocate",
    "mkswap",
    "swapon",
    "swapoff",
    "fstrim",
    "sysctl",
    "chroot",
    "sha256sum",
];

/// A process that ends with whoever holds it.
pub struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// One machine that is on.
struct Machine {
    /// What holds the mounts of a rescue system that builds.
    _root: Option<Held>,
    sshd: Option<Held>,
    address: SocketAddr,
    role: Role,
    has_own_key: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Rescue,
    First,
}

/// Follows the emulator until it is dropped.
pub struct Machines {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Machines {
    pub fn start(dir: PathBuf, control: String, port: u16) -> Self {
        fs::create_dir(dir.join("programs")).unwrap();
        for (name, text) in SCRIPTS {
            fs::write(dir.join(name), text).unwrap();
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(dir.join(name), executable).unwrap();
        }
        for name in DISK_PROGRAMS {
            let program = dir.join("programs").join(name);
            std::os::unix::fs::symlink("disk", program).unwrap();
        }
        // sshd asks for it where it runs as root; Debian's unit makes it at boot.
        fs::create_dir_all("/run/sshd").ok();
        let task = tokio::spawn(follow(dir, control, port));
        Self { task }
    }
}

async fn follow(dir: PathBuf, control: String, port: u16) {
    let mut on: BTreeMap<u64, Machine> = BTreeMap::new();
    let mut since = 0;
    let http = reqwest::Client::new();
    loop {
        // Between two events a machine may want its sshd with another host key.
        let url = format!("{control}/events?since={since}&wait_ms=200");
        let Ok(answer) = http.get(url).send().await else {
            return;
        };
        let Ok(told) = answer.json::<Value>().await else {
            return;
        };
        for event in told["events"].as_array().into_iter().flatten() {
            since = event["seq"].as_u64().unwrap();
            let id = event["server"].as_u64().unwrap();
            match event["kind"].as_str().unwrap() {
                "running" | "rebooted" | "reset" => {
                    on.remove(&id);
                    let state = http.get(format!("{control}/state")).send().await.unwrap();
                    let state: Value = state.json().await.unwrap();
                    if let Some(machine) = boot(&dir, &state, id, port) {
                        on.insert(id, machine);
                    }
                }
                "off" | "deleted" => {
                    on.remove(&id);
                }
                _ => {}
            }
        }
        for machine in on.values_mut() {
            let wants = machine.role == Role::First && dir.join("use-own").exists();
            if wants && !machine.has_own_key {
                machine.has_own_key = true;
                machine.sshd = None;
                machine.sshd = Some(sshd(&dir, machine.role, "own", machine.address));
            }
        }
    }
}

fn boot(dir: &Path, state: &Value, id: u64, port: u16) -> Option<Machine> {
    let servers = state["servers"].as_array().unwrap();
    let server = servers.iter().find(|server| server["id"] == id)?;
    let ip = server["public_net"]["ipv4"]["ip"].as_str().unwrap();
    let address = SocketAddr::new(ip.parse().unwrap(), port);
    let (role, host_key) = if server["boots"] == "rescue" {
        let keys = server["rescue"]["authorized_keys"].as_array().unwrap();
        let lines: Vec<&str> = keys.iter().map(|key| key.as_str().unwrap()).collect();
        fs::write(dir.join("authorized-rescue"), lines.join("\n")).unwrap();
        for old in ["rescue-host", "rescue-host.pub"] {
            fs::remove_file(dir.join(old)).ok();
        }
        keygen(&dir.join("rescue-host"));
        let word = server["user_data"].as_str().unwrap();
        fs::write(dir.join("rescue-word"), word).unwrap();
        (Role::Rescue, "rescue-host")
    } else {
        let text = server["user_data"].as_str()?;
        let told: Value = serde_json::from_str(text).unwrap();
        assert_eq!(told["role"], "first-server");
        let line = told["authorized-key"].as_str().unwrap();
        if !dir.join("authorized-first").exists() {
            fs::write(dir.join("authorized-first"), line).unwrap();
        }
        let path = dir.join("told-host");
        if dir.join("foreign-host-key").exists() {
            keygen(&path);
        } else {
            fs::write(&path, told["host-key"].as_str().unwrap()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        (Role::First, "told-host")
    };
    let builds = role == Role::Rescue && dir.join("nix.tar.xz").exists();
    Some(Machine {
        _root: builds.then(|| own_root(dir)),
        sshd: Some(sshd(dir, role, host_key, address)),
        address,
        role,
        has_own_key: false,
    })
}

fn own_root(dir: &Path) -> Held {
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(dir.join("rescue-root.sh"))
        .arg(dir)
        .spawn();
    let held = Held(child.unwrap());
    until("a root of its own", || dir.join("rescue-pid").exists());
    held
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + READY_LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not yet");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn sshd(dir: &Path, role: Role, host_key: &str, address: SocketAddr) -> Held {
    let (authorized, script) = match role {
        Role::Rescue => ("authorized-rescue", "rescue.sh"),
        Role::First => ("authorized-first", "first-server.sh"),
    };
    let config = format!(
        "Port {port}\nListenAddress {ip}\nHostKey {dir}/{host_key}\nAuthorizedKeysFile {dir}/{authorized}\n\
         ForceCommand {dir}/{script} {dir}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         PermitRootLogin prohibit-password\nSetEnv HOME={dir}\n{QUICK}",
        port = address.port(),
        ip = address.ip(),
        dir = dir.display(),
    );
    let path = dir.join(format!("{host_key}.config"));
    fs::write(&path, config).unwrap();
    serve(&path, address)
}

/// An sshd by a configuration, when it listens.
pub fn serve(config: &Path, address: SocketAddr) -> Held {
    let child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(config)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sshd is needed: apt-get install openssh-server");
    let sshd = Held(child);
    until("sshd listens", || TcpStream::connect(address).is_ok());
    sshd
}

/// The git server: it lets in whom `authorized-git` names, and runs git alone.
pub struct GitServer {
    _sshd: Held,
    pub address: SocketAddr,
}

impl GitServer {
    pub fn start(dir: &Path, port: u16) -> Self {
        keygen(&dir.join("git-host"));
        fs::write(dir.join("authorized-git"), "").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/git-host\nAuthorizedKeysFile {dir}/authorized-git\n\
             ForceCommand git-shell -c \"$SSH_ORIGINAL_COMMAND\"\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nAcceptEnv GIT_PROTOCOL\n\
             SetEnv HOME={dir}\n{QUICK}",
            dir = dir.display(),
        );
        let path = dir.join("git.config");
        fs::write(&path, config).unwrap();
        Self {
            _sshd: serve(&path, address),
            address,
        }
    }
}

pub fn keygen(path: &Path) {
    let mut keygen = Command::new("ssh-keygen");
    let status = keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status();
    assert!(status.expect("ssh-keygen is needed").success());
}
