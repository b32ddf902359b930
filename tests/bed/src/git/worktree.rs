//! A work tree of the cluster repository, used as a person would: by the real `git`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A clone that pushes to the bed's repository by HTTP.
#[derive(Clone, Debug)]
pub struct Worktree {
    dir: PathBuf,
}

impl Worktree {
    pub(super) fn create(dir: &Path, remote: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        git(dir, &["init", "--quiet", "--initial-branch=main"])?;
        git(dir, &["config", "user.name", "A User"])?;
        git(dir, &["config", "user.email", "user@example.com"])?;
        git(dir, &["config", "commit.gpgsign", "false"])?;
        git(dir, &["config", "http.proxy", ""])?;
        git(dir, &["config", "push.autoSetupRemote", "true"])?;
        git(dir, &["remote", "add", "origin", remote])?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let file = self.dir.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, content).with_context(|| format!("writing {}", file.display()))
    }

    pub fn read(&self, path: &str) -> Result<String> {
        let file = self.dir.join(path);
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }

    /// Removes a file or a folder with everything in it.
    pub fn remove(&self, path: &str) -> Result<()> {
        let file = self.dir.join(path);
        let removed = if file.is_dir() {
            fs::remove_dir_all(&file)
        } else {
            fs::remove_file(&file)
        };
        removed.with_context(|| format!("removing {}", file.display()))
    }

    /// Commits everything as it is now, also when nothing has changed, and returns the commit.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message])?;
        self.head()
    }

    /// Pushes HEAD to `main`.
    pub fn push(&self) -> Result<()> {
        self.git(&["push", "--quiet", "origin", "HEAD:main"])
            .map(drop)
    }

    pub fn force_push(&self) -> Result<()> {
        self.git(&["push", "--quiet", "--force", "origin", "HEAD:main"])
            .map(drop)
    }

    /// [`Worktree::commit`] and [`Worktree::push`].
    pub fn commit_and_push(&self, message: &str) -> Result<String> {
        let commit = self.commit(message)?;
        self.push()?;
        Ok(commit)
    }

    pub fn head(&self) -> Result<String> {
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// Any git command in this work tree; its standard output.
    pub fn git(&self, arguments: &[&str]) -> Result<String> {
        git(&self.dir, arguments)
    }
}

/// Runs git without the settings of the user and the machine.
pub(super) fn git(dir: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .current_dir(dir)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .output()
        .context("starting git")?;
    if !output.status.success() {
        bail!(
            "git {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
