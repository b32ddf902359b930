//! Looks for programs on PATH and builds those that are missing, one module after another.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Program, Source, on_path};

/// Programs by the folder of their source and their name.
pub type Found = BTreeMap<(&'static str, String), PathBuf>;

/// Finds or builds all programs of `sources`.
pub fn all(sources: &[Source], dir: &Path) -> Result<Found> {
    let mut found = Found::new();
    let missing = look(sources, dir, &mut found);
    if missing.is_empty() {
        return Ok(found);
    }
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let _lock = lock(dir)?;
    // Another process may have built them while we waited for the lock.
    let missing = look(sources, dir, &mut found);
    let total: Duration = missing.iter().map(|source| source.cold_build).sum();
    if !missing.is_empty() {
        eprintln!(
            "Parts of the test bed to build, once: {}. About {} minutes on two idle cores.",
            missing.len(),
            total.as_secs().div_ceil(60),
        );
    }
    for source in missing {
        build(&source, dir)?;
        for program in source.programs {
            found.insert(
                key(&source, program),
                dir.join(source.folder).join(program.name),
            );
        }
    }
    Ok(found)
}

/// Fills `found` and returns the sources of which a program is neither built nor on PATH.
fn look(sources: &[Source], dir: &Path, found: &mut Found) -> Vec<Source> {
    let mut missing = Vec::new();
    for source in sources {
        let built = dir.join(source.folder);
        for program in source.programs {
            let path = if built.is_dir() {
                Some(built.join(program.name))
            } else {
                fitting_on_path(source, program)
            };
            if let Some(path) = path {
                found.insert(key(source, program), path);
            }
        }
        if source
            .programs
            .iter()
            .any(|program| !found.contains_key(&key(source, program)))
        {
            missing.push(*source);
        }
    }
    missing
}

fn key(source: &Source, program: &Program) -> (&'static str, String) {
    (source.folder, program.name.to_owned())
}

/// A program on PATH fits when it says the same major and minor version.
fn fitting_on_path(source: &Source, program: &Program) -> Option<PathBuf> {
    let path = on_path(program.name)?;
    let output = Command::new(&path)
        .args(program.version_arguments)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let minor = source
        .version
        .rsplit_once('.')
        .map_or(source.version, |(minor, _)| minor);
    says_version(&text, minor).then(|| {
        eprintln!("Using {} for {}", path.display(), source.folder);
        path
    })
}

fn says_version(text: &str, minor: &str) -> bool {
    let wanted = format!("{minor}.");
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .any(|word| word.starts_with(&wanted))
}

pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("Another process builds parts of the test bed; waiting for it.");
        file.lock()
            .with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

/// Builds into a folder with another name and renames it when all programs are there.
fn build(source: &Source, dir: &Path) -> Result<()> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("parts")
        .join(source.folder);
    let unfinished = dir.join(format!(".{}.unfinished", source.folder));
    let go = on_path("go")
        .context("Go is missing: install Go 1.26 or newer, or put the part on PATH")?;
    fs::create_dir_all(&unfinished)?;
    let progress = Progress::start(source);
    for program in source.programs {
        let mut command = Command::new(&go);
        command
            .current_dir(&module)
            .env("GOFLAGS", "")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath"])
            .arg(format!("-ldflags=-s -w {}", source.linker_flags))
            .arg("-o")
            .arg(unfinished.join(program.name))
            .arg(program.package);
        run(command, &progress).with_context(|| format!("building {}", program.package))?;
    }
    fs::rename(&unfinished, dir.join(source.folder))
        .with_context(|| format!("renaming {}", unfinished.display()))?;
    progress.finish();
    Ok(())
}

fn run(mut command: Command, progress: &Progress) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting go")?;
    let mut stderr = child.stderr.take().context("standard error of go")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.tick();
        std::thread::sleep(Duration::from_millis(200));
    };
    let text = reader
        .join()
        .unwrap_or_else(|_| Ok(String::new()))
        .unwrap_or_default();
    if !status.success() {
        bail!("go build failed: {status}\n{text}");
    }
    Ok(())
}

/// A bar on a terminal; a line now and then in a log.
struct Progress {
    what: &'static str,
    estimate: Duration,
    started: Instant,
    bar: Option<ProgressBar>,
    last_line: std::cell::Cell<Instant>,
}

impl Progress {
    const LINE_EVERY: Duration = Duration::from_secs(30);

    fn start(source: &Source) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(source.cold_build.as_secs());
            let template = "{msg:20} {wide_bar} {elapsed} of about {len} s";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(source.folder);
            bar
        });
        if bar.is_none() {
            eprintln!(
                "{}: building, about {} s on two idle cores",
                source.folder,
                source.cold_build.as_secs()
            );
        }
        let now = Instant::now();
        Self {
            what: source.folder,
            estimate: source.cold_build,
            started: now,
            bar,
            last_line: std::cell::Cell::new(now),
        }
    }

    fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.started.elapsed().min(self.estimate).as_secs());
        } else if self.last_line.get().elapsed() > Self::LINE_EVERY {
            self.last_line.set(Instant::now());
            eprintln!(
                "{}: still building, {} s",
                self.what,
                self.started.elapsed().as_secs()
            );
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!(
            "{}: built in {} s",
            self.what,
            self.started.elapsed().as_secs()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::says_version;

    #[test]
    fn a_version_fits_by_major_and_minor() {
        assert!(says_version("Kubernetes v1.36.3", "1.36"));
        assert!(says_version("etcd Version: 3.7.0\nGit SHA: 1.36.9f", "3.7"));
        assert!(!says_version("Client Version: v1.32.4-dispatcher", "1.36"));
        assert!(!says_version("kwok version v11.36.0", "1.36"));
    }
}
