//! With real Nix: a flake of a few lines, built by the machine's own shell.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fabrik_core::id::{ClusterId, CommitId, PoolName};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::build::nix::Nix;
use crate::config;
use crate::publication;

mod cache;

/// A busy machine takes long for what else takes seconds.
const DEADLINE: Duration = Duration::from_secs(240);
const CLUSTER: &str = "abcdefgh01234567";

/// A system is a directory with a file; `system NAME K3S SCRIPT` makes one.
const FLAKE: &str = r#"{
  outputs = { self }: let
    system = name: k3s: script: {
      config.system.build.toplevel = derivation {
        inherit name;
        system = builtins.currentSystem or "SYSTEM";
        builder = "/bin/sh";
        PATH = "/usr/bin";
        hello = ./hello;
        args = [ "-c" "mkdir $out; cat $hello >$out/hello; echo ${k3s} >$out/k3s-version; ${script}" ];
      };
      config.services.k3s.package.version = k3s;
    };
  in {
    nixosConfigurations.servers = SERVERS;
    nixosConfigurations.workers = WORKERS;
    MORE
  };
}
"#;
const GOOD: &str = r#"system "a" "1.36.3+k3s1" """#;

#[tokio::test]
async fn each_pool_s_system_is_built_kept_and_signed() {
    let bed = Bed::new();
    let commit = bed.commit(&[
        ("SERVERS", GOOD),
        ("WORKERS", r#"system "b" "1.36.3+k3s1" """#),
    ]);
    let mut run = bed.start();
    let builds = run.until_settled(bed.request(&commit)).await;
    assert_eq!(builds.pools.len(), 2);
    let targets = builds.targets(&commit);
    for (pool, target) in &targets {
        let system = &target.system;
        let hello = bed.physical(system.output.as_str()).join("hello");
        assert_eq!(std::fs::read_to_string(hello).unwrap(), "hello\n");
        assert_eq!(target.first, None);
        let signed = &builds.publications(&commit)[pool];
        let told = publication::verify(&bed.public_key, &cluster(), signed).unwrap();
        assert_eq!(
            (&told.commit, &told.pool, told.sequence),
            (&commit, pool, 7)
        );
        assert_eq!(told.systems, std::slice::from_ref(system));
    }
    assert_eq!(builds.holds(&commit), []);
    let other = commit_id('0');
    assert_eq!(
        builds.targets(&other).len(),
        0,
        "of another commit it says nothing"
    );

    // What is kept survives a collection; what is not would not.
    bed.nix_store(&["--gc"]);
    for target in targets.values() {
        for path in [&target.system.output, &target.system.derivation] {
            bed.nix_store(&["--check-validity", path.as_str()]);
        }
    }
}

#[tokio::test]
async fn what_was_evaluated_is_not_evaluated_again_unless_nix_has_lost_it() {
    let bed = Bed::new();
    let other = r#"system "b" "1.36.3+k3s1" """#;
    let commit = bed.commit(&[("WORKERS", other)]);
    let built = bed.start().until_settled(bed.request(&commit)).await;
    let noted = bed.state().join(format!("systems/{commit}/workers.json"));
    let text = std::fs::read_to_string(&noted).unwrap();
    // An evaluation that never was, told by its version.
    std::fs::write(&noted, text.replace("1.36.3", "1.36.9")).unwrap();
    let again = bed.start().until_settled(bed.request(&commit)).await;
    let version = |builds: &Builds| builds.targets(&commit)[&pool("workers")].system.kubernetes;
    assert_eq!(version(&again).to_string(), "1.36.9+k3s1");

    std::fs::remove_dir_all(bed.store()).unwrap();
    let anew = bed.start().until_settled(bed.request(&commit)).await;
    assert_eq!(anew.pools, built.pools);
}

/// When Nix ends it kills its git, at any moment.
#[tokio::test]
async fn a_git_that_was_killed_is_in_nobody_s_way() {
    let bed = Bed::new();
    let mut run = bed.start();
    run.until_settled(bed.request(&bed.commit(&[]))).await;
    let clones = bed.path("home/.cache/nix/gitv3");
    let clones = std::fs::read_dir(clones).unwrap().flatten();
    let clones: Vec<_> = clones.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    assert!(!clones.is_empty(), "Nix keeps its clones elsewhere");
    for clone in clones {
        std::fs::write(clone.join("shallow.lock"), "").unwrap();
    }
    let other = bed.commit(&[("WORKERS", r#"system "b" "1.36.3+k3s1" """#)]);
    let builds = run.until_settled(bed.request(&other)).await;
    assert_eq!(builds.holds(&other), []);
}

#[test]
fn a_commit_that_was_not_looked_at_yet_waits() {
    let [old, new] = ["a", "b"].map(|digit| digit.repeat(40).parse().unwrap());
    let builds = Builds {
        commit: Some(old),
        pools: BTreeMap::new(),
    };
    assert_eq!(builds.holds(builds.commit.as_ref().unwrap()), []);
    assert_eq!(builds.holds(&new).len(), 1);
    assert_eq!(Builds::default().holds(&new).len(), 1);
}

#[tokio::test]
async fn a_pool_that_does_not_evaluate_or_build_holds_itself_back_only() {
    let bed = Bed::new();
    let throws = r#"system "b" (throw "no such\n  option") """#;
    let commit = bed.commit(&[("WORKERS", throws)]);
    let mut run = bed.start();
    let builds = run.until_settled(bed.request(&commit)).await;
    assert!(builds.targets(&commit).contains_key(&pool("servers")));
    let [hold] = &builds.holds(&commit)[..] else {
        panic!("{builds:?}")
    };
    assert_eq!(
        (hold.about.as_str(), hold.reason),
        ("pool workers", HoldReason::Evaluation)
    );
    let told = "evaluating pool workers failed:\nerror: no such\n";
    assert!(hold.message.starts_with(told), "{}", hold.message);
    assert!(
        hold.message.contains("\n  at flake.nix:16:"),
        "{}",
        hold.message
    );
    assert!(!hold.message.contains("/nix/store"), "{}", hold.message);

    let fails = r#"system "b" "1.36.3+k3s1" "echo the disk is a lie >&2; exit 3""#;
    let commit = bed.commit(&[("WORKERS", fails)]);
    let builds = run.until_settled(bed.request(&commit)).await;
    let [hold] = &builds.holds(&commit)[..] else {
        panic!("{builds:?}")
    };
    assert!(
        hold.message
            .starts_with("building pool workers failed:\nerror: "),
        "{}",
        hold.message
    );
    assert!(
        hold.message.contains("failed with exit code 3"),
        "{}",
        hold.message
    );
    assert!(
        hold.message.contains("the disk is a lie"),
        "{}",
        hold.message
    );
}

#[tokio::test]
async fn a_flake_may_not_configure_nix_nor_build_while_it_is_evaluated() {
    let bed = Bed::new();
    let mut run = bed.start();
    let mut message = async |commit: CommitId| {
        let builds = run.until_settled(bed.request(&commit)).await;
        builds.holds(&commit).pop().expect("a hold").message
    };
    let configures =
        bed.commit_file(&Bed::flake(&[]).replacen('{', "{ nixConfig.sandbox = false;", 1));
    let told = message(configures).await;
    assert!(told.contains("flake.nix has a `nixConfig`"), "{told}");
    assert!(told.contains("[nix] of cluster.toml"), "{told}");

    let imports = r#"system "b" (import "${(system "c" "1.36.3+k3s1" "").config.system.build.toplevel}/k3s-version") """#;
    let imports = bed.commit(&[("WORKERS", imports)]);
    let told = message(imports).await;
    assert!(told.contains("allow-import-from-derivation"), "{told}");

    let looks = r#"system "b" (builtins.readFile /etc/hostname) """#;
    let looks = bed.commit(&[("WORKERS", looks)]);
    let told = message(looks).await;
    assert!(told.contains("forbidden in pure evaluation mode"), "{told}");
}

#[tokio::test]
async fn an_input_that_is_not_locked_is_refused_by_its_name() {
    let bed = Bed::new();
    let mut run = bed.start();
    let mut message = async |commit: CommitId| {
        let builds = run.until_settled(bed.request(&commit)).await;
        builds.holds(&commit).pop().map(|hold| hold.message)
    };
    let input = bed.path("input");
    std::fs::create_dir(&input).unwrap();
    std::fs::write(input.join("flake.nix"), "{ outputs = _: { }; }").unwrap();
    let with = |inputs: &str, arguments: &str| {
        let flake = Bed::flake(&[]).replacen("{ self }", &format!("{{ self{arguments} }}"), 1);
        flake.replacen('{', &format!("{{ {inputs}"), 1)
    };
    let ours = format!(r#"inputs.ours.url = "path:{}";"#, input.display());
    let flake = with(&ours, ", ours, implied");
    let told = message(bed.commit_file(&flake)).await.unwrap();
    let expected = "flake.lock does not lock what flake.nix asks for as implied, ours. ";
    assert!(told.starts_with(expected), "{told}");
    assert!(
        told.contains("Run `nix flake lock`, commit flake.lock"),
        "{told}"
    );

    std::fs::write(bed.path("work/flake.nix"), with(&ours, ", ours")).unwrap();
    super::lock::lock_with(&bed.nix(), &bed.path("work"))
        .await
        .unwrap();
    assert_eq!(message(bed.push()).await, None);

    let moved = with(&ours.replace("path:", "path:/moved"), ", ours");
    let told = message(bed.commit_file(&moved)).await.unwrap();
    assert!(
        told.starts_with("flake.lock does not lock what flake.nix asks for as ours. "),
        "{told}"
    );
}

#[tokio::test]
async fn a_commit_may_say_nothing_of_systems_and_not_half_of_it() {
    let bed = Bed::new();
    let mut run = bed.start();
    let without = bed.commit_none();
    let builds = run.until_settled(bed.request(&without)).await;
    assert_eq!(
        (builds.commit.as_ref(), builds.pools.len()),
        (Some(&without), 0)
    );

    let commit = bed.commit(&[]);
    let mut request = bed.request(&commit);
    request.pools.insert(pool("gpu"));
    let builds = run.until_settled(request).await;
    let State::Failed(why) = &builds.pools[&pool("gpu")] else {
        panic!("{builds:?}")
    };
    assert!(why.contains("no nixosConfigurations.gpu"), "{why}");
    assert!(why.contains("It has: servers, workers"), "{why}");
    assert_eq!(builds.targets(&commit).len(), 2);
}

#[tokio::test]
async fn an_evaluation_that_takes_too_much_or_too_long_is_ended_and_says_so() {
    let bed = Bed::new();
    let hungry = r#"system "b" (builtins.deepSeq (builtins.genList (x: builtins.genList (y: x + y) 1000) 10000000) "1") """#;
    let commit = bed.commit(&[("WORKERS", hungry)]);
    let builds = bed.start().until_settled(bed.request(&commit)).await;
    let [hold] = &builds.holds(&commit)[..] else {
        panic!("{builds:?}")
    };
    let told = "evaluating pool workers needed more than 700MiB: raise [nix] memory-max";
    assert!(hold.message.starts_with(told), "{}", hold.message);

    let endless = bed.commit(&[("WORKERS", ENDLESS)]);
    let mut hasty = bed.config.clone();
    // It takes memory too, the faster the machine, the more.
    hasty.time_limit = Duration::from_secs(5);
    hasty.memory_max = "16GiB".parse().unwrap();
    let builds = bed
        .start_with(&hasty)
        .until_settled(bed.request(&endless))
        .await;
    let [hold] = &builds.holds(&endless)[..] else {
        panic!("{builds:?}")
    };
    let told = "evaluating pool workers took longer than 5s: raise [nix] time-limit";
    assert!(hold.message.starts_with(told), "{}", hold.message);
    poll("end of the evaluation", || running(&endless) == 0).await;
}

/// No stack, no end.
const ENDLESS: &str = r#"system "b" (toString (builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: [ { key = builtins.bitAnd (x.key + 1) 4294967295; } ]; })) """#;

#[tokio::test]
async fn a_newer_commit_ends_the_work_on_the_one_before() {
    let bed = Bed::new();
    let endless = bed.commit(&[("WORKERS", ENDLESS)]);
    let mut run = bed.start();
    run.ask(bed.request(&endless));
    let at_work = |builds: &Builds| builds.targets(&endless).contains_key(&pool("servers"));
    run.until(at_work).await;
    poll("an evaluation", || running(&endless) > 0).await;

    let good = bed.commit(&[]);
    let builds = run.until_settled(bed.request(&good)).await;
    assert_eq!(builds.targets(&good).len(), 2);
    poll("the older evaluation's end", || running(&endless) == 0).await;
}

#[tokio::test]
async fn a_new_minor_of_k3s_comes_to_servers_in_a_second_step_where_the_flake_can() {
    let bed = Bed::new();
    let newer = r#"system "a" "1.37.0+k3s1" """#;
    let first =
        r#"fabrik.first.servers = { version, minor }: assert minor == 36; system "a" version "";"#;
    let commit = bed.commit(&[("SERVERS", newer), ("WORKERS", newer), ("MORE", first)]);
    let mut request = bed.request(&commit);
    request.servers_run = Some("1.36.3+k3s1".parse().unwrap());
    let builds = bed.start().until_settled(request.clone()).await;
    let targets = builds.targets(&commit);
    let servers = &targets[&pool("servers")];
    let step = servers.first.as_ref().expect("a first step");
    assert_eq!(step.kubernetes.to_string(), "1.36.3+k3s1");
    assert_ne!(step.output, servers.system.output);
    bed.nix_store(&["--check-validity", step.output.as_str()]);
    assert_eq!(targets[&pool("workers")].first, None);
    let signed = &builds.publications(&commit)[&pool("servers")];
    let told = publication::verify(&bed.public_key, &cluster(), signed).unwrap();
    assert_eq!(told.systems, [step.clone(), servers.system.clone()]);

    let wrong = first.replace("version \"\"", "\"1.35.0+k3s1\" \"\"");
    let wrong = bed.commit(&[("SERVERS", newer), ("MORE", &wrong)]);
    let request = Request {
        origin: bed.request(&wrong).origin,
        ..request
    };
    let builds = bed.start().until_settled(request.clone()).await;
    let hold = builds.holds(&wrong).pop().expect("a hold").message;
    assert!(
        hold.contains("was asked for the k3s minor of 1.36.3+k3s1 and gave 1.35.0+k3s1"),
        "{hold}"
    );

    let without = bed.commit(&[("SERVERS", newer)]);
    let request = Request {
        origin: bed.request(&without).origin,
        ..request
    };
    let builds = bed.start().until_settled(request).await;
    assert_eq!(builds.targets(&without)[&pool("servers")].first, None);
    let notices: Vec<_> = builds.notices().collect();
    let [(_, notice)] = notices[..] else {
        panic!("{notices:?}")
    };
    assert!(
        notice.starts_with("k3s goes from 1.36 to 1.37, and the flake has no fabrik.first.servers"),
        "{notice}"
    );
}

#[tokio::test]
async fn a_plan_s_systems_are_those_that_the_leader_would_build() {
    let bed = Bed::new();
    let commit = bed.commit(&[]);
    let built = bed.start().until_settled(bed.request(&commit)).await;
    let built = &built.targets(&commit)[&pool("workers")].system;
    let work = bed.path("work");
    let preview = |commit| Preview::with(bed.nix(), &work, commit);
    for preview in [preview(Some(&commit)), preview(None)] {
        let seen = preview.unwrap().system(&pool("workers")).await.unwrap();
        assert_eq!((&seen.system, seen.boots), (built, None));
    }
    // As it is now, not as it was committed.
    let newer = r#"system "b" "1.36.4+k3s1" """#;
    std::fs::write(work.join("flake.nix"), Bed::flake(&[("WORKERS", newer)])).unwrap();
    let now = preview(None).unwrap().system(&pool("workers")).await;
    assert_eq!(now.unwrap().system.kubernetes.to_string(), "1.36.4+k3s1");
    let kernel = |kernel: &str| {
        format!(
            r#"let s = system "b" "1.36.4+k3s1" ""; in {{ config = s.config // {{ system.build = s.config.system.build // {{ kernel = "{kernel}"; }}; }}; }}"#
        )
    };
    let mut boots = Vec::new();
    for kernel in [kernel("linux-1"), kernel("linux-2")] {
        std::fs::write(work.join("flake.nix"), Bed::flake(&[("WORKERS", &kernel)])).unwrap();
        let seen = preview(None).unwrap().system(&pool("workers")).await;
        boots.push(seen.unwrap().boots.unwrap());
    }
    assert_ne!(boots[0], boots[1]);
    let none = preview(None).unwrap().system(&pool("gpu")).await;
    let none = none.unwrap_err().to_string();
    assert!(none.contains("no nixosConfigurations.gpu"), "{none}");
    let elsewhere = Preview::with(bed.nix(), bed.dir.path(), None);
    assert!(elsewhere.is_err_and(|why| why.ends_with("is in no git work tree")));
}

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

fn cluster() -> ClusterId {
    CLUSTER.parse().unwrap()
}

fn commit_id(digit: char) -> CommitId {
    digit.to_string().repeat(40).parse().unwrap()
}

/// Processes of Nix at work on a commit.
fn running(commit: &CommitId) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|p| std::fs::read(p.ok()?.path().join("cmdline")).ok());
    lines
        .filter(|line| {
            let line = String::from_utf8_lossy(line);
            line.contains("--expr") && line.contains(commit.as_str())
        })
        .count()
}

async fn poll(what: &str, done: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + DEADLINE;
    while !done() {
        assert!(tokio::time::Instant::now() < until, "no {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A repository, its bare clone, and a Nix with a store of its own.
struct Bed {
    dir: TempDir,
    config: config::Nix,
    public_key: String,
}

/// A builder at work.
struct Running {
    ask: watch::Sender<Option<Arc<Request>>>,
    builds: watch::Receiver<Builds>,
    published: Arc<Published>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn ask(&self, request: Request) {
        self.ask.send_replace(Some(Arc::new(request)));
    }

    async fn until_settled(&mut self, request: Request) -> Builds {
        let commit = request.origin.commit.clone();
        self.ask(request);
        let settled = |s: &State| matches!(s, State::Built(_) | State::Failed(_));
        self.until(|b| b.commit.as_ref() == Some(&commit) && b.pools.values().all(settled))
            .await
    }

    async fn until(&mut self, done: impl Fn(&Builds) -> bool) -> Builds {
        let waited = tokio::time::timeout(DEADLINE, self.builds.wait_for(|b| done(b))).await;
        let waited = waited.map(|builds| builds.unwrap().clone());
        waited.unwrap_or_else(|_| panic!("still {:?}", self.builds.borrow()))
    }
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for sub in ["conf", "state", "keys", "work"] {
            std::fs::create_dir(path.join(sub)).unwrap();
        }
        std::fs::write(path.join("conf/nix.conf"), nix_conf()).unwrap();
        let (_, public_key) = crate::signing::tests::founded(&path.join("keys"));
        let config = config::Nix {
            program_dir: program_dir().to_owned(),
            store: Some(path.join("store")),
            signing_key_file: path.join("keys/signing.key"),
            memory_max: "700MiB".parse().unwrap(),
            time_limit: Duration::from_secs(120),
        };
        let bed = Self {
            dir,
            config,
            public_key,
        };
        bed.git(&["init", "-q", "-b", "main"]);
        let clone = bed.clone_dir();
        bed.git(&["init", "-q", "--bare", clone.to_str().unwrap()]);
        std::fs::write(bed.path("work/hello"), "hello\n").unwrap();
        bed
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// A name that a URL has to quote.
    fn clone_dir(&self) -> PathBuf {
        self.path("bare clone.git")
    }

    fn physical(&self, path: &str) -> PathBuf {
        self.path("store").join(path.trim_start_matches('/'))
    }

    fn nix(&self) -> Nix {
        let store = self.config.store.as_deref();
        Nix::new(&self.config.program_dir, store, &self.path("home"))
            .with_environment("NIX_CONF_DIR", self.path("conf"))
    }

    fn start(&self) -> Running {
        self.start_with(&self.config)
    }

    fn start_with(&self, config: &config::Nix) -> Running {
        let builder = Builder::with_nix(self.nix(), config, &self.state(), cluster()).unwrap();
        let published = builder.published();
        let (ask, requests) = watch::channel(None);
        let (tell, builds) = watch::channel(Builds::default());
        Running {
            ask,
            builds,
            published,
            task: tokio::spawn(async move { builder.run(requests, tell).await }),
        }
    }

    fn request(&self, commit: &CommitId) -> Request {
        Request {
            origin: Origin {
                clone: self.clone_dir(),
                commit: commit.clone(),
            },
            sequence: 7,
            pools: ["servers", "workers"].map(pool).into(),
            settings: spec::Nix::default(),
            servers_run: None,
        }
    }

    fn flake(parts: &[(&str, &str)]) -> String {
        let defaults = [("SERVERS", GOOD), ("WORKERS", GOOD), ("MORE", "")];
        let system = format!("{}-linux", std::env::consts::ARCH);
        let mut flake = FLAKE.replace("SYSTEM", &system);
        for (name, text) in parts.iter().chain(&defaults) {
            flake = flake.replacen(name, text, 1);
        }
        flake
    }

    /// A commit whose flake has these parts and is good else.
    fn commit(&self, parts: &[(&str, &str)]) -> CommitId {
        self.commit_file(&Self::flake(parts))
    }

    fn commit_file(&self, flake: &str) -> CommitId {
        std::fs::write(self.path("work/flake.nix"), flake).unwrap();
        self.push()
    }

    fn commit_none(&self) -> CommitId {
        std::fs::remove_file(self.path("work/flake.nix")).ok();
        self.push()
    }

    fn push(&self) -> CommitId {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "change"]);
        let clone = self.clone_dir();
        self.git(&[
            "push",
            "-q",
            clone.to_str().unwrap(),
            "HEAD:refs/fabrik/admitted",
        ]);
        self.git(&["rev-parse", "HEAD"]).trim().parse().unwrap()
    }

    fn git(&self, args: &[&str]) -> String {
        run(Command::new("git")
            .current_dir(self.path("work"))
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
            .args(args))
    }

    fn nix_store(&self, args: &[&str]) -> String {
        self.nix_store_in(&self.store(), args)
    }

    fn nix_store_in(&self, store: &Path, args: &[&str]) -> String {
        run(self
            .command("nix-store")
            .arg("--store")
            .arg(store)
            .args(args))
    }

    /// A program of Nix, by hand.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program_dir().join(program));
        command
            .env("NIX_CONF_DIR", self.path("conf"))
            .env("HOME", self.path("home"));
        command
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Builders see this machine's shell and its tools, and no network.
fn nix_conf() -> String {
    let shell = std::fs::canonicalize("/bin/sh").unwrap();
    let mut paths = vec![format!("/bin/sh={}", shell.display())];
    for dir in ["/usr", "/lib", "/lib64"] {
        if let Ok(real) = std::fs::canonicalize(dir) {
            paths.push(format!("{dir}={}", real.display()));
        }
    }
    format!(
        "build-users-group =\nsandbox = true\nsandbox-paths = {}\nsubstituters =\n",
        paths.join(" ")
    )
}

/// The directory with Nix: named by FABRIK_NIX, found on PATH, or fetched once.
fn program_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        if let Some(dir) = std::env::var_os("FABRIK_NIX") {
            return dir.into();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs = std::env::split_paths(&path);
        if let Some(dir) = dirs.find(|dir| dir.join("nix-store").is_file()) {
            return dir;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        run(Command::new(root.join("tests/nix/get-nix.sh")).arg(root.join("target/nix")));
        std::fs::canonicalize(root.join("target/nix/bin")).unwrap()
    })
}
