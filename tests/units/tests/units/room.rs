//! A machine with a real systemd and Nix' daemon: a container of this machine's own /usr and nothing else of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::units::{modules, run};

/// Far beyond what anything takes here.
const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(10);
/// What the room boots to: nothing of this machine's services.
const TARGET: &str = "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n";
const DAEMON: &str = "[Service]\nExecStart=/opt/bin/nix-daemon\n";
const NIX_CONF: &str = "build-users-group =\nsandbox = false\nsubstituters =\n";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Without cgroup v2 nspawn lets nobody write but to systemd's own hierarchy.
const INIT: &str =
    "[ ! -d /sys/fs/cgroup/memory ] || mount -o remount,bind,rw /sys/fs/cgroup/memory
exec /usr/lib/systemd/systemd --unit=room.target systemd.firstboot=no";

pub struct Room {
    nspawn: Child,
    /// The room's first process, as it is seen from here.
    init: u32,
    /// Its root groups.
    groups: Vec<PathBuf>,
    /// What nspawn calls the room, and what these are called.
    name: String,
    folder: TempDir,
}

impl Room {
    /// With the unit that `text` is, and `etc` as its /etc/fabrik.
    pub fn boot(unit: &str, text: &str, etc: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for dir in ["system", "bin", "nix"] {
            fs::create_dir(path(dir)).unwrap();
        }
        fs::write(path("system/room.target"), TARGET).unwrap();
        fs::write(path("system/nix-daemon.service"), DAEMON).unwrap();
        fs::write(path("system").join(unit), text).unwrap();
        fs::write(path("nix/nix.conf"), NIX_CONF).unwrap();
        let libraries = modules::put_nix(&path("bin"));
        let evaluator = Path::new(env!("CARGO_BIN_EXE_evaluator"));
        let fabrik = evaluator.with_file_name("fabrik");
        assert!(fabrik.is_file(), "cargo build --workspace");
        let process = std::process::id();
        let name = format!("{}-{process}", unit.trim_end_matches(".service"));
        let groups = make_groups(&name);

        let mut command = nspawn(&name, &groups);
        for (from, to) in [
            (path("system"), "/etc/systemd/system"),
            (path("nix"), "/etc/nix"),
            (path("bin"), modules::PROGRAMS),
            (libraries, modules::LIBRARIES),
            (fabrik, "/opt/fabrik"),
            (evaluator.to_owned(), "/opt/evaluator"),
        ] {
            command.arg(format!("--bind-ro={}:{to}", from.display()));
        }
        command.arg(format!("--bind={}:/etc/fabrik", etc.display()));
        command.args(["--", "sh", "-c", INIT]);
        let log = fs::File::create(path("log")).unwrap();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut room = Self {
            nspawn: command.spawn().unwrap(),
            init: 0,
            groups,
            name,
            folder,
        };
        room.wait("boot", Self::is_up);
        room.systemctl(&["start", "nix-daemon"]);
        let socket = "/nix/var/nix/daemon-socket/socket";
        room.wait("Nix daemon", |room| room.path(socket).exists());
        room
    }

    /// What of the room is at an absolute path of its.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    /// What a program printed that was run in the room, as root and in no unit.
    pub fn run(&self, program: &[&str]) -> String {
        run(&mut self.command(program))
    }

    pub fn systemctl(&self, arguments: &[&str]) -> String {
        self.run(&[&["systemctl"], arguments].concat())
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        let shown = self.systemctl(&["show", "--value", "--property", property, unit]);
        shown.trim().to_owned()
    }

    /// A unit's log, and what systemd says of it.
    pub fn log(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--quiet", "--unit", unit])
    }

    /// Makes an executable file.
    pub fn script(&self, path: &str, text: &str) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Until something is so that nothing announces.
    pub fn wait(&mut self, what: &str, is: impl Fn(&mut Self) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            assert!(begun.elapsed() < PATIENCE, "no {what}: {}", self.told());
            sleep(GLANCE);
        }
    }

    fn is_up(&mut self) -> bool {
        if let Some(ended) = self.nspawn.try_wait().unwrap() {
            panic!("nspawn: {ended}: {}", self.told());
        }
        let nspawn = self.nspawn.id();
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children"));
        let children = children.unwrap_or_default();
        let Some(init) = children.split_ascii_whitespace().next_back() else {
            return false;
        };
        self.init = init.parse().unwrap();
        let comm = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
        let mut command = self.command(&["systemctl", "is-system-running"]);
        let mut state = || command.output().unwrap().stdout;
        comm == "systemd\n" && matches!(&state()[..], b"running\n" | b"degraded\n")
    }

    fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        command.args(["--root", "--wd=/", "env", "--ignore-environment"]);
        command.arg(format!("PATH={}", modules::PATH));
        command.args(["HOME=/root", "NIX_REMOTE=daemon"]);
        command.args(program);
        command
    }

    fn told(&self) -> String {
        let mut told = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let journal = self
            .command(&["journalctl", "--no-pager", "--quiet", "--lines=60"])
            .output();
        told.extend(journal.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()));
        told
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let pid = self.nspawn.id().to_string();
        Command::new("kill").arg(pid).status().ok();
        self.nspawn.wait().ok();
        // nspawn leaves it where /run is on a disk.
        fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(&self.name)).ok();
        self.groups.iter().for_each(|group| remove(group));
    }
}

/// Begins a room whose processes are in `groups`, and which ends with this thread.
fn nspawn(name: &str, groups: &[PathBuf]) -> Command {
    const JOIN: &str =
        r#"for group in $groups; do echo $$ >"$group/cgroup.procs" || exit; done; exec "$@""#;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "sh", "-c", JOIN, "sh"]);
    let groups: Vec<_> = groups.iter().map(|group| group.as_os_str()).collect();
    command.env("groups", groups.join(OsStr::new(" ")));
    command.args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit"]);
    // Of this machine's files it has only /usr, to read; the rest is in memory.
    command.args(["--directory=/", "--volatile=yes", "--private-network"]);
    command.args(["--console=passive", "--machine", name]);
    command
}

/// Makes groups below this process' own: where memory is counted, and where systemd keeps its units.
fn make_groups(name: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let groups = own.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let hierarchy = match controllers {
            "memory" => "memory",
            "name=systemd" => "systemd",
            "" if Path::new(CGROUPS).join("unified").is_dir() => "unified",
            "" => "",
            _ => return None,
        };
        let own = Path::new(CGROUPS).join(hierarchy);
        let group = own.join(path.trim_start_matches('/')).join(name);
        fs::create_dir(&group).ok().map(|()| group)
    });
    groups.collect()
}

/// A group and those below it. They are empty, but for what the kernel has not buried yet.
fn remove(group: &Path) {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove(&entry.path());
    }
    let begun = Instant::now();
    while fs::remove_dir(group).is_err() && begun.elapsed() < Duration::from_secs(5) {
        sleep(GLANCE);
    }
}
