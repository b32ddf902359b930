//! A folder that looks like a node with systemd-boot and a Nix store of its own, and an agent on it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use fabrik::cluster::resources::{FabrikNode, FabrikNodeSpec, FabrikNodeStatus};
use fabrik::node::agent::Channels;
use fabrik::node::secrets::Holdings;
use fabrik::node::stage::{Progress, Wanted};
use fabrik::node::{Agent, AgentConfig, front, stage};
use fabrik::publication;
use fabrik_core::id::StorePath;
use fabrik_core::system::{
    Action, Activity, Needs, Order, Phase, Publication, Retirement, SignedPublication, System,
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::cache::Authority;
use crate::agent::nix::Leader;

const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const PROFILE: &str = "nix/var/nix/profiles/system";
/// Far beyond what anything takes here.
const PATIENCE: Duration = Duration::from_secs(120);
const PROGRAMS: [(&str, &str); 7] = [
    ("bootctl", include_str!("machine/bootctl.sh")),
    ("mount", "#!/bin/sh\necho \"$2\" >>ROOT/mounted\n"),
    ("nix-env", include_str!("machine/nix-env.sh")),
    ("nixos-rebuild", include_str!("machine/nixos-rebuild.sh")),
    ("sync", "#!/bin/sh\n"),
    ("systemctl", include_str!("machine/systemctl.sh")),
    ("systemd-run", include_str!("machine/systemd-run.sh")),
];

pub struct Machine {
    pub leader: Leader,
    pub authority: Authority,
    pub config: AgentConfig,
    /// How many files the leader's cache has given out.
    pub served: Arc<AtomicU32>,
    pub old: System,
    root: PathBuf,
    config_file: PathBuf,
    pub seen: watch::Sender<Option<FabrikNode>>,
    status: watch::Receiver<Option<FabrikNodeStatus>>,
    agent: JoinSet<()>,
    boots: u32,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// Runs its first system; no agent yet.
    pub async fn new() -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let leader = Leader::new(&folder.path().join("leader"));
        let authority = Authority::new();
        let (url, served) = authority.serve(leader.cache()).await;
        for dir in [
            "run",
            "sw",
            "boot/loader/entries",
            "proc/self",
            "proc/sys/kernel/random",
        ] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::create_dir_all(root.join("nix/var/nix/profiles")).unwrap();
        fs::create_dir_all(root.join("sys/firmware/efi/efivars")).unwrap();
        for (name, text) in PROGRAMS {
            program(&root, name, text);
        }
        program(&root, "nix", &leader.wrapper());
        let mounts = "40 22 254:1 / /boot rw - vfat /dev/vda1 rw\n";
        fs::write(root.join("proc/self/mountinfo"), mounts).unwrap();
        let info: Vec<u8> = "systemd-boot 257\0"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let info = [&[6, 0, 0, 0], info.as_slice()].concat();
        fs::write(variable(&root, "LoaderInfo"), info).unwrap();

        let old = leader.build("old", "6.12", "");
        leader.install(&old, &root);
        symlink(old.output.as_str(), root.join(format!("{PROFILE}-1-link"))).unwrap();
        symlink("system-1-link", root.join(PROFILE)).unwrap();
        let switch = root
            .join(&old.output.as_str()[1..])
            .join("bin/switch-to-configuration");
        assert!(Command::new(switch).arg("boot").status().unwrap().success());

        let kubeconfig = folder.path().join("kubelet.kubeconfig");
        authority.write_kubeconfig(&authority, &kubeconfig);
        let config_file = folder.path().join("agent.toml");
        let front = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = serde_json::json!({
            "node": "node-1",
            "state-dir": root.join("var/lib/fabrik-agent"),
            "root": root,
            "kubeconfig": kubeconfig,
            "front": front.local_addr().unwrap(),
            "cluster": {
                "name": "demo",
                "id": "abcdefgh01234567",
                "public-key": leader.public_key.trim(),
            },
            "cache": {"urls": [url]},
            "nix": {"program-dir": root.join("sw"), "store": root},
        });
        let config = toml::to_string(&config).unwrap();
        fs::write(&config_file, config).unwrap();
        let mut machine = Self {
            config: AgentConfig::load(&config_file).unwrap(),
            leader,
            authority,
            served,
            old,
            root,
            config_file,
            seen: watch::Sender::new(None),
            status: watch::Sender::new(None).subscribe(),
            agent: JoinSet::new(),
            boots: 0,
            _folder: folder,
        };
        machine.power_cut().await;
        machine
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A process of its own would know no more than these: the machine's files and what it hears.
    pub fn start_agent(&mut self) {
        let (status, status_receiver) = watch::channel(None);
        let (wanted, wanted_receiver) = watch::channel(Wanted::default());
        let (progress_sender, progress) = watch::channel(Progress::default());
        let channels = Channels {
            seen: self.seen.subscribe(),
            status,
            wanted,
            progress,
            secrets: watch::channel(Holdings::default()).1,
        };
        let fabrik = Path::new(env!("CARGO_BIN_EXE_fabrik"));
        let agent = Agent::new(self.config.clone(), &self.config_file, fabrik, channels);
        self.status = status_receiver;
        self.agent.spawn(agent.run());
        self.agent.spawn(stage::run(
            self.config.clone(),
            wanted_receiver,
            progress_sender,
        ));
        let (config, seen) = (self.config.clone(), self.seen.subscribe());
        self.agent
            .spawn(async move { front::serve(&config, seen).await.unwrap() });
    }

    /// As SIGKILL does: at once, wherever it is.
    pub async fn kill_agent(&mut self) {
        self.agent.shutdown().await;
    }

    pub async fn restart_agent(&mut self) {
        self.kill_agent().await;
        self.start_agent();
    }

    /// Names an entry for the next boot, as a person may; the variable's file.
    pub fn name_once(&self, entry: &str) -> PathBuf {
        let bootctl = Command::new(self.path("sw/bootctl"))
            .args(["--esp-path=/boot", "set-oneshot", entry])
            .status();
        assert!(bootctl.unwrap().success());
        variable(&self.root, "LoaderEntryOneShot")
    }

    /// Where a unit is, while it runs.
    pub fn unit(&self, name: &str) -> PathBuf {
        self.path("run/units").join(name)
    }

    /// Ends a unit as SIGKILL does.
    pub fn kill_unit(&self, name: &str) {
        let file = self.unit(name);
        let group = fs::read_to_string(&file).unwrap();
        let group = format!("-{}", group.trim());
        let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
        assert!(killed.unwrap().success());
        fs::remove_file(file).unwrap();
    }

    pub fn kill_units(&self) {
        let units = fs::read_dir(self.path("run/units"));
        let mut names: Vec<_> = units
            .into_iter()
            .flatten()
            .map(|unit| unit.unwrap().file_name().into_string().unwrap())
            .collect();
        // Who waits for another one first: it would end by itself.
        names.sort();
        for name in names {
            self.kill_unit(&name);
        }
    }

    /// The machine loses its power and boots: the one-shot entry if there is one, else the default. A system that
    /// panics boots again.
    pub async fn power_cut(&mut self) {
        self.kill_agent().await;
        self.kill_units();
        let once = variable(&self.root, "LoaderEntryOneShot");
        let entry = fs::read(&once).ok().map(|bytes| {
            let text: Vec<u8> = bytes[4..]
                .iter()
                .copied()
                .filter(|byte| *byte != 0)
                .collect();
            String::from_utf8(text).unwrap()
        });
        let _ = fs::remove_file(&once);
        let default = fs::read_to_string(self.path("boot/loader/loader.conf")).unwrap();
        let default = default.trim().trim_start_matches("default ").to_owned();
        let entry = entry.unwrap_or(default);
        let entry = fs::read_to_string(self.path("boot/loader/entries").join(entry)).unwrap();
        let (_, system) = entry.trim().rsplit_once("init=").unwrap();
        let system = system.trim_end_matches("/init");
        self.boots += 1;
        if self.path(&system[1..]).join("panics").exists() {
            return Box::pin(self.power_cut()).await;
        }
        fs::remove_dir_all(self.path("run")).unwrap();
        fs::create_dir_all(self.path("run")).unwrap();
        symlink(system, self.path("run/booted-system")).unwrap();
        symlink(system, self.path("run/current-system")).unwrap();
        let id = format!("00000000-0000-4000-8000-{:012}\n", self.boots);
        fs::write(self.path("proc/sys/kernel/random/boot_id"), id).unwrap();
    }

    /// Waits until somebody calls for a reboot, and boots.
    pub async fn reboot(&mut self) {
        let asked = self.path("run/reboot");
        let came = came(|| asked.exists()).await;
        assert!(came, "no reboot: {:?}", self.status.borrow());
        self.power_cut().await;
        self.start_agent();
    }

    /// What the API server shows from now on.
    pub fn show(&self, spec: FabrikNodeSpec) {
        self.seen
            .send_replace(Some(FabrikNode::new("node-1", spec)));
    }

    /// `spec`, and that it leaves for good, said by `leader` of the boot with that number and good for so many seconds, beside
    /// the status that is known.
    pub fn show_retirement(
        &self,
        spec: FabrikNodeSpec,
        leader: &Leader,
        boot: u32,
        seconds: i64,
        known: Option<FabrikNodeStatus>,
    ) {
        let retirement = Retirement {
            schema: Retirement::SCHEMA,
            cluster: self.config.cluster.id.clone(),
            node: self.config.node.clone(),
            boot: format!("00000000-0000-4000-8000-{boot:012}")
                .parse()
                .unwrap(),
            stops: true,
            not_after: Some(Timestamp::now() + SignedDuration::from_secs(seconds)),
        };
        let signed = publication::sign(&leader.key, &retirement).unwrap();
        let spec = FabrikNodeSpec {
            retirement: Some(signed),
            ..spec
        };
        let mut object = FabrikNode::new("node-1", spec);
        object.status = known;
        self.seen.send_replace(Some(object));
    }

    pub fn publication(&self, sequence: u64, systems: &[&System]) -> SignedPublication {
        let publication = Publication {
            schema: Publication::SCHEMA,
            cluster: self.config.cluster.id.clone(),
            pool: "workers".parse().unwrap(),
            commit: "2f3a".repeat(10).parse().unwrap(),
            sequence,
            systems: systems.iter().map(|s| (*s).clone()).collect(),
        };
        publication::sign(&self.leader.key, &publication).unwrap()
    }

    /// Published as `sequence`, to be fetched.
    pub fn spec(&self, sequence: u64, system: &System) -> FabrikNodeSpec {
        FabrikNodeSpec {
            pool: "workers".to_owned(),
            server_id: 1,
            uid: "uid".to_owned(),
            intent: "abcdef".to_owned(),
            aim: Some(system.output.to_string()),
            publication: Some(self.publication(sequence, &[system])),
            caches: Vec::new(),
            order: None,
            retirement: None,
            standing: None,
        }
    }

    /// Orders `action` about `system` under ticket 1.
    pub fn order(&self, system: &System, needs: Needs, action: Action, seconds: u32) {
        let order = Order {
            ticket: 1,
            system: system.output.clone(),
            needs,
            minor: false,
            action,
            seconds,
            not_after: None,
        };
        self.show(FabrikNodeSpec {
            order: Some(order),
            ..self.spec(1, system)
        });
    }

    /// The next status that is as it should be.
    pub async fn until(&mut self, good: impl Fn(&FabrikNodeStatus) -> bool) -> FabrikNodeStatus {
        let good = |status: &Option<FabrikNodeStatus>| status.as_ref().is_some_and(&good);
        let found = tokio::time::timeout(PATIENCE, self.status.wait_for(good)).await;
        let found = found.map(|status| status.unwrap().clone().unwrap());
        found.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {:?}", self.status.borrow()))
    }

    pub async fn until_phase(&mut self, phase: Phase) -> Activity {
        let is = |status: &FabrikNodeStatus| activity(status).is_some_and(|a| a.phase == phase);
        activity(&self.until(is).await).unwrap()
    }

    /// Asserts what runs, and what an ordinary boot would start.
    #[track_caller]
    pub fn runs_and_boots(&self, running: &StorePath, default: &StorePath) {
        let facts = fabrik::node::look::facts(&self.config, None).unwrap();
        assert_eq!(
            (&facts.running, facts.default.as_ref()),
            (running, Ok(default))
        );
    }

    /// What was asked of switch-to-configuration since the installation.
    pub fn switched(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("switched")).unwrap();
        text.lines().skip(1).map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill_units();
    }
}

fn activity(status: &FabrikNodeStatus) -> Option<Activity> {
    status.report.as_ref()?.activity.clone()
}

/// Until a file is there, which nothing announces.
pub async fn wait_for(there: impl Fn() -> bool) {
    assert!(came(there).await, "not within {PATIENCE:?}");
}

async fn came(there: impl Fn() -> bool) -> bool {
    let wait = async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.is_ok()
}

fn program(root: &Path, name: &str, text: &str) {
    let file = root.join("sw").join(name);
    fs::write(&file, text.replace("ROOT", &root.display().to_string())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

fn variable(root: &Path, name: &str) -> PathBuf {
    root.join(format!("sys/firmware/efi/efivars/{name}-{VENDOR}"))
}
