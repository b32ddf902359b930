//! What a newer template would have written: told file by file, shown as a patch, and applied only where it is asked for
//! and touches nothing that a person wrote.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use super::record::{RECORD_FILE, Record};
use super::template::{self, Files, is_executable};
use super::{InitError, files};
use crate::cli::git::{self, Change};
use crate::cli::{Failure, say};

/// What the newer template means for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// It is new in the template, and not here.
    Add,
    /// Only the template changed it.
    Take,
    /// The template changed it, and so did a person: this is both.
    Merge { merged: String, clean: bool },
    /// The template changed it, and a person has removed it.
    Removed,
    /// A person wrote one of that name before the template had one, or it is a link.
    Foreign,
    /// The template has it no more.
    Dropped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Planned {
    path: String,
    step: Step,
    /// As it is here.
    mine: Option<String>,
    /// As the template has it now.
    theirs: Option<String>,
}

impl Planned {
    fn changes_something(&self) -> bool {
        matches!(self.step, Step::Add | Step::Take | Step::Merge { .. })
    }
}

/// Shows what changes, or with `apply` takes what touches no person's work.
pub fn run(dir: &Path, apply: bool) -> Result<ExitCode, Failure> {
    files::must_not_be_behind_link(dir, RECORD_FILE)?;
    let record = Record::read(dir)?.ok_or_else(|| InitError::NoRecord {
        dir: dir.to_owned(),
    })?;
    let theirs = template::files(&record.answers);
    let plan = plan(dir, &record, &theirs)?;
    if plan.is_empty() {
        eprintln!("nothing to do: the template says what it said");
    }
    for planned in &plan {
        eprintln!("{}", told(planned, apply));
    }
    if plan.iter().any(Planned::changes_something) {
        eprintln!(
            "note: the template counts on its own fabrik: run `nix flake update fabrik` in the repository first, where \
             flake.lock holds an older one"
        );
    }
    if apply {
        take(dir, &record, &plan, &theirs)?;
    } else if let Some(patch) = patch(&record, &plan, &theirs)? {
        // `say` ends the line. More is not taken away: the last line may be a blank one of the context.
        say(patch.strip_suffix('\n').unwrap_or(&patch))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(dir: &Path, record: &Record, theirs: &Files) -> Result<Vec<Planned>, InitError> {
    let mut plan = Vec::new();
    for (path, new) in theirs {
        let base = record.files.get(*path);
        let (mine, step) = if is_behind_link(dir, path) {
            (None, (base != Some(new)).then_some(Step::Foreign))
        } else {
            let mine = content(&dir.join(path))?;
            let step = step(base, mine.as_deref(), new)?;
            (mine, step)
        };
        if let Some(step) = step {
            plan.push(Planned {
                path: (*path).to_owned(),
                step,
                mine,
                theirs: Some(new.clone()),
            });
        }
    }
    for path in record.files.keys() {
        if theirs.contains_key(path.as_str()) {
            continue;
        }
        if let Some(mine) = content(&dir.join(path))? {
            plan.push(Planned {
                path: path.clone(),
                step: Step::Dropped,
                mine: Some(mine),
                theirs: None,
            });
        }
    }
    Ok(plan)
}

/// Whether a file is somewhere else in truth. A patch for it would be one for the link, and what it leads to is nobody's
/// business.
fn is_behind_link(dir: &Path, path: &str) -> bool {
    dir.join(path).is_symlink() || files::must_not_be_behind_link(dir, path).is_err()
}

fn step(base: Option<&String>, mine: Option<&str>, new: &str) -> Result<Option<Step>, InitError> {
    Ok(match (base, mine) {
        (_, Some(mine)) if mine == new => None,
        (Some(base), _) if base == new => None,
        (None, None) => Some(Step::Add),
        (None, Some(_)) => Some(Step::Foreign),
        (Some(_), None) => Some(Step::Removed),
        (Some(base), Some(mine)) if mine == base => Some(Step::Take),
        (Some(base), Some(mine)) => {
            let (merged, clean) = git::merge(base, mine, new)?;
            // Whoever has made the same change already has it.
            (merged != mine).then_some(Step::Merge { merged, clean })
        }
    })
}

fn told(planned: &Planned, apply: bool) -> String {
    let path = &planned.path;
    match (&planned.step, apply) {
        (Step::Add, false) => format!("new        {path}"),
        (Step::Add, true) => format!("made       {path}"),
        (Step::Take, false) => format!("newer      {path}"),
        (Step::Take, true) => format!("taken      {path}"),
        (Step::Merge { clean: true, .. }, false) => {
            format!("merged     {path} (you changed it too)")
        }
        (Step::Merge { clean: false, .. }, false) => {
            format!("CONFLICT   {path} (you changed the same lines; they are marked)")
        }
        (Step::Merge { .. }, true) => {
            format!("left alone {path} (you changed it too: see `fabrik init --upgrade`)")
        }
        (Step::Removed, _) => format!("left out   {path} (you removed it)"),
        (Step::Foreign, _) => {
            format!("left alone {path} (it is yours, and not of the template)")
        }
        (Step::Dropped, _) => {
            format!(
                "left alone {path} (the template has it no more: remove it if you don't need it)"
            )
        }
    }
}

/// All changes, with that of the record, so that who applies the patch is asked no more about them.
fn patch(record: &Record, plan: &[Planned], theirs: &Files) -> Result<Option<String>, InitError> {
    let mut changes: Vec<Change<'_>> = Vec::new();
    for planned in plan {
        let after = match &planned.step {
            Step::Add | Step::Take => planned.theirs.as_deref(),
            Step::Merge { merged, .. } => Some(merged.as_str()),
            Step::Removed | Step::Foreign | Step::Dropped => continue,
        };
        changes.push(Change {
            path: &planned.path,
            is_executable: is_executable(&planned.path),
            before: planned.mine.as_deref(),
            after,
        });
    }
    let (before, after) = (record.text()?, follow(record, plan, theirs, true).text()?);
    if before != after {
        changes.push(Change {
            path: RECORD_FILE,
            is_executable: false,
            before: Some(&before),
            after: Some(&after),
        });
    }
    let patch = git::diff(&changes)?;
    Ok((!patch.is_empty()).then_some(patch))
}

fn take(dir: &Path, record: &Record, plan: &[Planned], theirs: &Files) -> Result<(), InitError> {
    for planned in plan {
        let path = dir.join(&planned.path);
        match (&planned.step, &planned.theirs) {
            (Step::Add, Some(text)) => {
                files::create(&path, text.as_bytes(), is_executable(&planned.path))?;
            }
            (Step::Take, Some(text)) => files::replace(&path, text)?,
            _ => {}
        }
    }
    let newer = follow(record, plan, theirs, false);
    if newer != *record {
        files::replace(&dir.join(RECORD_FILE), &newer.text()?)?;
    }
    Ok(())
}

/// The record afterwards. What was not merged keeps the base that it has to be merged from.
fn follow(record: &Record, plan: &[Planned], theirs: &Files, merged: bool) -> Record {
    let step = |path: &str| plan.iter().find(|planned| planned.path == path);
    let stays = |path: &str| match step(path).map(|planned| &planned.step) {
        Some(Step::Merge { .. }) => !merged,
        Some(Step::Foreign) => true,
        _ => false,
    };
    let mut newer = record.clone();
    newer
        .files
        .retain(|path, _| theirs.contains_key(path.as_str()));
    for (path, text) in theirs {
        if !stays(path) {
            newer.files.insert((*path).to_owned(), text.clone());
        }
    }
    newer
}

fn content(path: &Path) -> Result<Option<String>, InitError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files::failed("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::tests::answers;
    use super::*;

    const OLD: &str = "one\ntwo\nthree\nfour\nfive\n";
    const NEW: &str = "one\ntwo\nthree\nfour\nFIVE\n";

    fn of(base: Option<&str>, mine: Option<&str>) -> Option<Step> {
        step(base.map(str::to_owned).as_ref(), mine, NEW).unwrap()
    }

    #[test]
    fn a_file_goes_by_who_changed_it() {
        assert_eq!(of(None, None), Some(Step::Add));
        assert_eq!(of(None, Some("mine\n")), Some(Step::Foreign));
        assert_eq!(of(Some(OLD), Some(OLD)), Some(Step::Take));
        assert_eq!(of(Some(OLD), None), Some(Step::Removed));
        assert_eq!(of(Some(NEW), Some("mine\n")), None);
        assert_eq!(of(Some(NEW), None), None);
        assert_eq!(of(Some(OLD), Some(NEW)), None);
        let both = Step::Merge {
            merged: "ONE\ntwo\nthree\nfour\nFIVE\n".to_owned(),
            clean: true,
        };
        assert_eq!(of(Some(OLD), Some(&OLD.replace("one", "ONE"))), Some(both));
        let same_line = of(Some(OLD), Some(&OLD.replace("five", "5")));
        assert!(matches!(same_line, Some(Step::Merge { clean: false, .. })));
    }

    #[test]
    fn what_was_not_merged_keeps_its_base_and_what_was_taken_gets_a_newer_one() {
        let mut record = Record::of(answers());
        for path in ["merge", "take", "dropped"] {
            record.files.insert(path.to_owned(), OLD.to_owned());
        }
        let paths = ["add", "foreign", "merge", "take"];
        let theirs: Files = paths.map(|path| (path, NEW.to_owned())).into();
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("take", OLD),
            ("merge", "ONE\ntwo\nthree\nfour\nfive\n"),
            ("foreign", "mine\n"),
            ("dropped", OLD),
        ] {
            std::fs::write(dir.path().join(path), text).unwrap();
        }
        let plan = plan(dir.path(), &record, &theirs).unwrap();
        let base = |record: &Record, path: &str| record.files.get(path).cloned();
        take(dir.path(), &record, &plan, &theirs).unwrap();
        let after = Record::read(dir.path()).unwrap().unwrap();
        assert_eq!(base(&after, "take").as_deref(), Some(NEW));
        assert_eq!(base(&after, "add").as_deref(), Some(NEW));
        assert_eq!(base(&after, "merge").as_deref(), Some(OLD));
        assert_eq!(
            (base(&after, "foreign"), base(&after, "dropped")),
            (None, None)
        );
        let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(
            (read("take"), read("add")),
            (NEW.to_owned(), NEW.to_owned())
        );
        assert_eq!(read("foreign"), "mine\n");
        assert!(read("merge").starts_with("ONE\n") && read("merge").ends_with("five\n"));
        let all = follow(&record, &plan, &theirs, true);
        assert_eq!(base(&all, "merge").as_deref(), Some(NEW));
    }
}
