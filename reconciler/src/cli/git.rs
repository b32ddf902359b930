//! The person's own git: begins a repository, commits, pushes, and compares and merges texts.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("git can't be run: {0}. Install it and have it in PATH")]
    Missing(#[source] std::io::Error),
    #[error("git {verb} failed: {said}")]
    Failed { verb: String, said: String },
    #[error("the commit is made, and the push failed (see above). Repeat it: `git {words}`")]
    NotPushed { words: String },
    #[error("a temporary file can't be written: {0}")]
    Disk(#[from] std::io::Error),
}

/// A text as it is and as it would be; `None`: there is no such file.
pub struct Change<'a> {
    pub path: &'a str,
    pub is_executable: bool,
    pub before: Option<&'a str>,
    pub after: Option<&'a str>,
}

/// The work tree that `dir` lies in, where that would take a repository there for a part of itself.
pub fn around(dir: &Path) -> Result<Option<PathBuf>, GitError> {
    let dir = std::path::absolute(dir)?;
    let there = dir.ancestors().find(|above| above.is_dir());
    let Some(there) = there.filter(|_| !dir.join(".git").exists()) else {
        return Ok(None);
    };
    let top = output(there, &["rev-parse", "--show-toplevel"], &[])?;
    if !top.status.success() {
        return Ok(None);
    }
    let ignored = ["check-ignore", "--quiet", "--"];
    let ignored = output(there, &ignored, &[dir.to_string_lossy().into_owned()])?;
    if ignored.status.success() {
        return Ok(None);
    }
    let top = String::from_utf8_lossy(&top.stdout);
    Ok(Some(PathBuf::from(top.trim_end())))
}

/// Makes a repository of `dir` where it is none. Says whether it did.
pub fn begin(dir: &Path) -> Result<bool, GitError> {
    if dir.join(".git").exists() {
        return Ok(false);
    }
    run(dir, &["init", "--quiet", "--initial-branch=main"], &[])?;
    Ok(true)
}

pub fn add(dir: &Path, paths: &[String]) -> Result<(), GitError> {
    run(dir, &["add", "--"], paths).map(drop)
}

/// Commits these paths, and nothing else that may be in the index.
pub fn commit(dir: &Path, message: &str, paths: &[String]) -> Result<(), GitError> {
    let args = ["commit", "--quiet", "--message", message, "--"];
    run(dir, &args, paths).map(drop)
}

/// A file that differs from the last commit.
pub struct Pending {
    pub path: String,
    /// That commit does not have it.
    pub is_new: bool,
}

/// Those of these files that differ from the last commit, and that git does not ignore.
pub fn changes(dir: &Path, paths: &[String]) -> Result<Vec<Pending>, GitError> {
    let args = [
        "status",
        "--porcelain",
        "-z",
        "--no-renames",
        "--untracked-files=all",
        "--",
    ];
    let output = run(dir, &args, paths)?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    // git-status(1), "Short Format": two letters, a blank, the path.
    let entries = told.split_terminator('\0').filter_map(|entry| {
        let (state, path) = entry.split_at_checked(3)?;
        Some(Pending {
            path: path.to_owned(),
            is_new: state.starts_with(['A', '?']),
        })
    });
    Ok(entries.collect())
}

/// Those of these files that git ignores, and does not have all the same.
pub fn ignored(dir: &Path, paths: &[String]) -> Result<Vec<String>, GitError> {
    let output = output(dir, &["check-ignore", "--"], paths)?;
    // git-check-ignore(1): 1 is for none.
    match output.status.code() {
        Some(0 | 1) => {
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(told.lines().map(str::to_owned).collect())
        }
        _ => Err(failed("check-ignore", &output)),
    }
}

/// Whether a file differs from what is committed, or is not committed at all.
pub fn is_changed(dir: &Path, path: &str) -> Result<bool, GitError> {
    let args = ["status", "--porcelain", "--ignored", "--"];
    Ok(!run(dir, &args, &[path.to_owned()])?.stdout.is_empty())
}

/// The files of a commit as a tar, whatever lies in the work tree.
pub fn archive(dir: &Path, commit: &str) -> Result<Vec<u8>, GitError> {
    Ok(run(dir, &["archive", "--format=tar", commit], &[])?.stdout)
}

/// Makes a branch of what is checked out, and goes there; what is changed comes along.
pub fn branch_off(dir: &Path, branch: &str) -> Result<(), GitError> {
    run(dir, &["switch", "--quiet", "--create", branch], &[]).map(drop)
}

/// Goes back to where a new branch was made, and takes that away.
pub fn leave_branch(dir: &Path, branch: &str) -> Result<(), GitError> {
    run(dir, &["switch", "--quiet", "-"], &[])?;
    run(dir, &["branch", "--quiet", "--delete", branch], &[]).map(drop)
}

/// The branch that is checked out, if one is.
pub fn branch(dir: &Path) -> Result<Option<String>, GitError> {
    let output = run(dir, &["branch", "--show-current"], &[])?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((!name.is_empty()).then_some(name))
}

/// Whether anything is committed on what is checked out; `None` where there is no repository.
pub fn has_commit(dir: &Path) -> Result<Option<bool>, GitError> {
    if !output(dir, &["rev-parse", "--git-dir"], &[])?
        .status
        .success()
    {
        return Ok(None);
    }
    let head = output(dir, &["rev-parse", "--verify", "--quiet", "HEAD"], &[])?;
    Ok(Some(head.status.success()))
}

/// Where a branch is pushed to: the URL of its own remote, else of `origin`.
pub fn pushed_to(dir: &Path, branch: &str) -> Result<Option<String>, GitError> {
    let key = format!("branch.{branch}.remote");
    let remote = output(dir, &["config", "--get", &key], &[])?;
    let remote = String::from_utf8_lossy(&remote.stdout).trim().to_owned();
    let remote = if remote.is_empty() { "origin" } else { &remote };
    let url = output(dir, &["remote", "get-url", "--push", remote], &[])?;
    let text = String::from_utf8_lossy(&url.stdout).trim().to_owned();
    Ok((url.status.success() && !text.is_empty()).then_some(text))
}

/// Whether all that git does not ignore is committed.
pub fn is_clean(dir: &Path) -> Result<bool, GitError> {
    Ok(run(dir, &["status", "--porcelain"], &[])?.stdout.is_empty())
}

/// The commit that a branch has at `url`, asked for as the person; `None` where it has no such branch.
pub fn head_at(dir: &Path, url: &str, branch: &str) -> Result<Option<String>, GitError> {
    let reference = format!("refs/heads/{branch}");
    let told = run(dir, &["ls-remote", "--", url, &reference], &[])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    Ok(told.split_whitespace().next().map(str::to_owned))
}

/// A file as it was pushed or fetched last, where the branch that is checked out follows another.
pub fn pushed(dir: &Path, path: &str) -> Result<Option<String>, GitError> {
    let shown = output(dir, &["show", &format!("@{{upstream}}:{path}")], &[])?;
    let text = String::from_utf8(shown.stdout).ok();
    Ok(text.filter(|_| shown.status.success()))
}

/// What git is told to push what is checked out to where it belongs; a new branch to `origin`.
pub fn push_words(new_branch: Option<&str>) -> Vec<&str> {
    let mut words = vec!["push"];
    if let Some(branch) = new_branch {
        words.extend(["--set-upstream", "origin", branch]);
    }
    words
}

/// Pushes. A person may be asked for a password.
pub fn push(dir: &Path, new_branch: Option<&str>) -> Result<(), GitError> {
    let words = push_words(new_branch);
    let mut git = Command::new("git");
    let status = git.current_dir(dir).args(&words).status();
    if status.map_err(GitError::Missing)?.success() {
        return Ok(());
    }
    let words = words.join(" ");
    Err(GitError::NotPushed { words })
}

/// What came from `base` to `theirs`, put into `mine`, and whether that went without a conflict. Conflicts are marked.
pub fn merge(base: &str, mine: &str, theirs: &str) -> Result<(String, bool), GitError> {
    let dir = tempfile::tempdir()?;
    for (name, text) in [("base", base), ("mine", mine), ("theirs", theirs)] {
        fs::write(dir.path().join(name), text)?;
    }
    let labels = ["-L", "yours", "-L", "as it was", "-L", "the template's"];
    let files = ["mine", "base", "theirs"];
    let args = [["merge-file", "-p"].as_slice(), &labels, &files].concat();
    let output = output(dir.path(), &args, &[])?;
    // The number of conflicts (git-merge-file(1)); what is above is an error.
    match output.status.code() {
        Some(conflicts @ 0..=127) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok((text, conflicts == 0))
        }
        _ => Err(failed("merge-file", &output)),
    }
}

/// Changes as one patch that `git apply` takes.
pub fn diff(changes: &[Change<'_>]) -> Result<String, GitError> {
    let dir = tempfile::tempdir()?;
    for side in ["a", "b"] {
        fs::create_dir(dir.path().join(side))?;
    }
    for change in changes {
        for (side, text) in [("a", change.before), ("b", change.after)] {
            let Some(text) = text else { continue };
            let file = dir.path().join(side).join(change.path);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&file, text)?;
            if change.is_executable {
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
            }
        }
    }
    // The folders are called as git calls the two sides. No setting of the person's may make it another patch.
    let args = [
        "diff",
        "--no-index",
        "--no-prefix",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--no-renames",
        "--text",
        "-U3",
        "a",
        "b",
    ];
    let mut git = command(dir.path(), &args, &[]);
    // It counts more than -U3.
    git.env_remove("GIT_DIFF_OPTS");
    let output = git.output().map_err(GitError::Missing)?;
    match output.status.code() {
        Some(0 | 1) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(failed("diff", &output)),
    }
}

fn run(dir: &Path, args: &[&str], paths: &[String]) -> Result<Output, GitError> {
    let output = output(dir, args, paths)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(failed(args.first().copied().unwrap_or_default(), &output))
}

fn output(dir: &Path, args: &[&str], paths: &[String]) -> Result<Output, GitError> {
    let mut git = command(dir, args, paths);
    git.output().map_err(GitError::Missing)
}

fn command(dir: &Path, args: &[&str], paths: &[String]) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir)
        .args(args)
        .args(paths.iter().map(OsStr::new))
        .stdin(Stdio::null());
    git
}

fn failed(verb: &str, output: &Output) -> GitError {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    GitError::Failed {
        verb: verb.to_owned(),
        said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_takes_both_and_marks_where_both_changed_the_same() {
        let base = "one\ntwo\nthree\nfour\nfive\n";
        let mine = base.replace("one", "ONE");
        let merged = merge(base, &mine, &base.replace("five", "FIVE")).unwrap();
        assert_eq!(merged, ("ONE\ntwo\nthree\nfour\nFIVE\n".to_owned(), true));
        let (text, clean) = merge(base, &mine, &base.replace("one", "uno")).unwrap();
        assert!(!clean && text.contains("<<<<<<< yours\nONE\n"), "{text}");
    }

    #[test]
    fn a_patch_names_files_as_the_repository_does() {
        let changes = [
            Change {
                path: "ci/check",
                is_executable: true,
                before: None,
                after: Some("new\n"),
            },
            Change {
                path: "a b",
                is_executable: false,
                before: Some("old\n"),
                after: Some("new\n"),
            },
        ];
        let patch = diff(&changes).unwrap();
        assert!(patch.contains("--- /dev/null\n+++ b/ci/check\n"), "{patch}");
        assert!(patch.contains("new file mode 100755"), "{patch}");
        assert!(patch.contains("-old\n+new\n"), "{patch}");
        assert_eq!(diff(&[]).unwrap(), "");
    }
}
