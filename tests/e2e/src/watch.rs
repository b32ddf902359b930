//! What a running `fabrik` shows to who looks at its processes, its files and its answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::Bed;

use crate::page_url;
use crate::search::find;

/// Where something was read, and what.
pub type Sample = (String, Vec<u8>);

/// `fabrik run` with a home and a folder for temporary files of its own, watched while it runs.
pub struct Watched {
    child: Child,
    stop: Arc<AtomicBool>,
    seen: Seen,
    log: PathBuf,
}

/// Everything that was seen, each thing once. Clones are the same.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<BTreeSet<Sample>>>);

impl Watched {
    /// Shorter than sops lives, and long enough to leave a core to the others.
    const PAUSE: Duration = Duration::from_millis(5);

    /// Its children see `variable`; its folders are `home` and `tmp` in `dir`, its log is `FORMAT.log`.
    pub fn start(
        bed: &Bed,
        dir: &Path,
        format: &str,
        variable: (&str, &str),
        seen: &Seen,
    ) -> Result<Self> {
        let config = bed.founding()?.config;
        let config = config.to_str().context("a path in UTF-8")?;
        let log = dir.join(format!("{format}.log"));
        let output = fs::File::create(&log)?;
        let mut command: Command =
            bed.fabrik_cmd(&["run", "--config", config, "--log-format", format])?;
        let child = command
            .env("TMPDIR", dir.join("tmp"))
            .env("HOME", dir.join("home"))
            .env("RUST_LOG", "debug")
            .env(variable.0, variable.1)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let watched = Self {
            stop: Arc::default(),
            seen: seen.clone(),
            child,
            log,
        };
        watched.look_on(dir.join("tmp"));
        Ok(watched)
    }

    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// What fabrik says to who asks.
    pub async fn sample(&self, bed: &Bed) -> Result<()> {
        for format in ["human", "json"] {
            let output = bed.fabrik_cmd(&["status", "--output", format])?.output()?;
            self.seen
                .add("status", [output.stdout, output.stderr].concat());
        }
        for page in ["metrics", "healthz", "readyz", "observed"] {
            let Ok(answer) = reqwest::get(page_url(bed, page)?).await else {
                continue;
            };
            let Ok(bytes) = answer.bytes().await else {
                continue;
            };
            // Before the first observation there is no packed one.
            self.seen
                .add(page, unpacked(&bytes).unwrap_or(bytes.to_vec()));
        }
        Ok(())
    }

    pub fn end(mut self) -> Result<()> {
        self.kill()
    }

    /// Processes and temporary files, again and again.
    fn look_on(&self, tmp: PathBuf) {
        let (pid, seen, stop) = (self.child.id(), self.seen.clone(), Arc::clone(&self.stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                seen.processes(pid);
                // Files may go while they are read.
                for (_, content) in files(&tmp).unwrap_or_default() {
                    seen.add("tmp", content);
                }
                std::thread::sleep(Self::PAUSE);
            }
        });
    }

    fn kill(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.kill();
    }
}

/// All processes of this machine, looked at all the time.
pub struct Processes {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    seen: Seen,
}

impl Processes {
    const PAUSE: Duration = Duration::from_millis(50);

    pub fn watch() -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Seen::default());
        let (until, sees) = (Arc::clone(&stop), seen.clone());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    sees.process(&process.path());
                }
                std::thread::sleep(Self::PAUSE);
            }
        });
        Self { stop, thread, seen }
    }

    /// Command lines and environments, each once.
    pub fn end(self) -> Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        ensure!(self.thread.join().is_ok(), "the watch of processes failed");
        let samples = self.seen.samples();
        let sees_sops = |(_, content): &Sample| find(content, b"SOPS_AGE_KEY_FILE").is_some();
        ensure!(
            samples.iter().any(sees_sops),
            "the watch is blind: it never saw sops"
        );
        Ok(samples)
    }
}

impl Seen {
    pub fn samples(&self) -> Vec<Sample> {
        self.0
            .lock()
            .map(|seen| seen.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn add(&self, place: &str, content: Vec<u8>) {
        if let Ok(mut seen) = self.0.lock() {
            seen.insert((place.to_owned(), content));
        }
    }

    /// Its command line and environment; it may have ended.
    fn process(&self, proc: &Path) {
        for what in ["cmdline", "environ"] {
            if let Ok(content) = fs::read(proc.join(what)) {
                self.add(what, content);
            }
        }
    }

    /// As [`Self::process`], of a process and its descendants.
    fn processes(&self, pid: u32) {
        let proc = Path::new("/proc").join(pid.to_string());
        self.process(&proc);
        for task in fs::read_dir(proc.join("task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
                self.processes(child);
            }
        }
    }
}

/// All files below a folder.
pub fn files(dir: &Path) -> Result<Vec<Sample>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(files(&path)?);
        } else if path.is_file() {
            all.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    Ok(all)
}

/// By the real gzip.
pub fn unpacked(packed: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write as _;
    let packed = packed.to_vec();
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = gzip.stdin.take().context("stdin")?;
    let writer = std::thread::spawn(move || input.write_all(&packed));
    let output = gzip.wait_with_output()?;
    let _ = writer.join();
    ensure!(output.status.success(), "gzip: {}", output.status);
    Ok(output.stdout)
}
