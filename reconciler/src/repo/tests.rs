//! Real git upstream, by path, by HTTP and by SSH.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::*;

mod bombs;
mod http;
mod ignored;
mod ssh;

/// A bare repository upstream, a checkout that pushes to it, and a place for our clone.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        git(
            world.dir.path(),
            &["init", "-q", "--bare", "-b", "main", "up.git"],
        );
        git(world.dir.path(), &["init", "-q", "-b", "main", "work"]);
        world
    }

    fn upstream(&self) -> PathBuf {
        self.dir.path().join("up.git")
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn open(&self, config: RepositoryConfig) -> Repository {
        Repository::open(config, &self.dir.path().join("clone")).unwrap()
    }

    fn open_local(&self) -> Repository {
        self.open(RepositoryConfig::at(self.upstream().display().to_string()))
    }

    fn push(&self, path: &str, content: &str) -> CommitId {
        let on_disk = self.work().join(path);
        fs::create_dir_all(on_disk.parent().unwrap()).unwrap();
        fs::write(on_disk, content).unwrap();
        git(&self.work(), &["add", "-A"]);
        git(
            &self.work(),
            &[
                "commit",
                "-q",
                "--allow-empty",
                "-m",
                &format!("Change {path}\n\nWhy"),
            ],
        );
        self.push_head()
    }

    fn push_head(&self) -> CommitId {
        let upstream = self.upstream();
        git(
            &self.work(),
            &[
                "push",
                "-qf",
                upstream.to_str().unwrap(),
                "HEAD:refs/heads/main",
            ],
        );
        self.head()
    }

    fn head(&self) -> CommitId {
        git(&self.work(), &["rev-parse", "HEAD"])
            .trim()
            .parse()
            .unwrap()
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=Ada",
            "-c",
            "user.email=ada@example.org",
            "-c",
            "commit.gpgsign=false",
        ])
        .arg("-C")
        .arg(dir)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("git is needed: apt-get install git");
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_push_arrives_and_its_files_are_read_without_a_checkout() {
    let world = World::new();
    let first = world.push("manifests/a.yaml", "one\n");
    let repository = world.open_local();
    assert_eq!(repository.fetch().await.unwrap(), first);
    let second = world.push("manifests/a.yaml", "two\n");
    assert_eq!(repository.fetch().await.unwrap(), second);
    assert_eq!(repository.fetch().await.unwrap(), second, "nothing new");
    let tree = repository.tree(&first).unwrap();
    assert_eq!(tree.read("manifests/a.yaml").unwrap(), b"one\n");
    assert_eq!(
        tree.file("manifests/a.yaml").unwrap().blob,
        BlobId::of(b"one\n")
    );
    assert_eq!(
        repository
            .tree(&second)
            .unwrap()
            .read("manifests/a.yaml")
            .unwrap(),
        b"two\n"
    );
    assert!(repository.descends(&second, &first).unwrap());
    assert!(repository.descends(&first, &first).unwrap());
    assert!(!repository.descends(&first, &second).unwrap());
}

#[tokio::test]
async fn a_rewind_arrives_and_is_seen_as_one_and_the_pinned_commit_stays() {
    let world = World::new();
    let first = world.push("a", "one");
    let second = world.push("a", "two");
    let repository = world.open_local();
    repository.fetch().await.unwrap();
    repository.pin(&second).unwrap();
    git(&world.work(), &["reset", "-q", "--hard", first.as_str()]);
    world.push_head();
    assert_eq!(repository.fetch().await.unwrap(), first);
    assert!(!repository.descends(&first, &second).unwrap());
    git(&world.work(), &["checkout", "-q", "--orphan", "other"]);
    let unrelated = world.push("b", "three");
    assert_eq!(repository.fetch().await.unwrap(), unrelated);
    assert!(!repository.descends(&unrelated, &second).unwrap());
    drop(repository);
    let again = world.open_local();
    assert_eq!(again.pinned().unwrap(), Some(second.clone()));
    assert_eq!(again.tree(&second).unwrap().read("a").unwrap(), b"two");
}

#[tokio::test]
async fn what_a_new_clone_never_saw_is_no_ancestor() {
    let world = World::new();
    let first = world.push("a", "one");
    let second = world.push("a", "two");
    git(&world.work(), &["reset", "-q", "--hard", first.as_str()]);
    world.push_head();
    git(&world.upstream(), &["gc", "-q", "--prune=now"]);
    let repository = world.open_local();
    assert_eq!(repository.fetch().await.unwrap(), first);
    assert!(repository.tree(&second).is_err());
    assert!(!repository.descends(&first, &second).unwrap());
    assert!(repository.descends(&second, &first).is_err());
}

#[tokio::test]
async fn each_fault_of_a_local_upstream_is_told_apart() {
    let world = World::new();
    let label = async |config: RepositoryConfig, dir: &str| {
        let repository = Repository::open(config, &world.dir.path().join(dir)).unwrap();
        repository.fetch().await.unwrap_err()
    };
    let mut config = RepositoryConfig::at(world.upstream().display().to_string());
    let error = label(config.clone(), "a").await;
    assert!(
        matches!(error, RepoError::BranchMissing { .. }),
        "empty upstream: {error:?}"
    );
    world.push("a", "one");
    config.branch = "release/7".to_owned();
    let error = label(config, "b").await;
    assert!(
        matches!(error, RepoError::BranchMissing { .. }),
        "{error:?}"
    );
    let error = label(RepositoryConfig::at("/nowhere/at.git"), "c").await;
    assert!(
        matches!(error, RepoError::NotARepository { .. }),
        "{error:?}"
    );
    let no_repository = world.dir.path().join("c").display().to_string();
    let error = label(RepositoryConfig::at(no_repository), "d").await;
    assert!(
        matches!(error, RepoError::NotARepository { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn many_fetches_are_packed_by_a_fresh_clone_that_keeps_the_pinned_commit() {
    let world = World::new();
    let repository = world.open_local();
    let first = world.push("a", "0");
    repository.fetch().await.unwrap();
    repository.pin(&first).unwrap();
    let old = repository.tree(&first).unwrap();
    for round in 1..60 {
        let head = world.push("a", &round.to_string());
        assert_eq!(repository.fetch().await.unwrap(), head);
    }
    let packs = clone::packs(&repository.0.clones.open_current().unwrap());
    assert!(packs < 20, "{packs} packs");
    assert_eq!(repository.pinned().unwrap(), Some(first.clone()));
    assert_eq!(
        old.read("a").unwrap(),
        b"0",
        "a reader of the old clone goes on"
    );
    assert_eq!(repository.tree(&first).unwrap().read("a").unwrap(), b"0");
}

#[tokio::test]
async fn what_a_killed_process_left_does_not_stop_the_next_one() {
    let world = World::new();
    world.push("a", "one");
    let repository = world.open_local();
    repository.fetch().await.unwrap();
    let in_use = Repository::open(repository.config().clone(), &world.dir.path().join("clone"));
    assert!(matches!(in_use, Err(RepoError::InUse { .. })));
    drop(repository);
    let clone = world.dir.path().join("clone/clone-1.git");
    fs::write(clone.join("refs/fabrik/upstream.lock"), "").unwrap();
    fs::write(clone.join("objects/pack/tmp_pack_x"), "half").unwrap();
    fs::create_dir_all(world.dir.path().join("clone/clone-unfinished.git")).unwrap();
    let head = world.push("a", "two");
    assert_eq!(world.open_local().fetch().await.unwrap(), head);
    assert!(!clone.join("objects/pack/tmp_pack_x").exists());
}

#[tokio::test]
async fn a_damaged_clone_is_made_anew() {
    let world = World::new();
    let head = world.push("a", "one");
    let repository = world.open_local();
    repository.fetch().await.unwrap();
    fs::write(
        world.dir.path().join("clone/clone-1.git/HEAD"),
        "\0\0garbage",
    )
    .unwrap();
    fs::remove_file(world.dir.path().join("clone/clone-1.git/config")).unwrap();
    assert_eq!(repository.fetch().await.unwrap(), head);
    assert_eq!(repository.tree(&head).unwrap().read("a").unwrap(), b"one");
}

#[tokio::test]
async fn a_push_to_a_local_path_gives_a_hint() {
    let world = World::new();
    world.push("a", "one");
    let mut changes = world.open_local().changes();
    world.push("a", "two");
    tokio::time::timeout(FETCH_DEADLINE, changes.next())
        .await
        .expect("a hint");
}

#[test]
fn a_directory_and_a_commit_of_it_have_the_same_files() {
    let world = World::new();
    let work = world.work();
    fs::write(work.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(
        work.join("run.sh"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    std::os::unix::fs::symlink("run.sh", work.join("link")).unwrap();
    let commit = world.push("a/b.txt", "x");
    let (id, committed) = Tree::of_checkout_revision(&work, "HEAD").unwrap();
    assert_eq!(id, commit);
    let directory = Tree::of_directory(&work).unwrap();
    assert_eq!(
        directory.files().collect::<Vec<_>>(),
        committed.files().collect::<Vec<_>>()
    );
    let kinds: Vec<_> = committed
        .files()
        .map(|file| (file.path.as_str(), file.kind))
        .collect();
    let expected = [
        ("a/b.txt", FileKind::Plain),
        ("link", FileKind::Symlink),
        ("run.sh", FileKind::Executable),
    ];
    assert_eq!(kinds, expected);
    for tree in [&directory, &committed] {
        assert!(matches!(tree.read("link"), Err(RepoError::NotAFile { .. })));
        assert!(matches!(
            tree.read("none"),
            Err(RepoError::NoSuchFile { .. })
        ));
        assert_eq!(tree.read("a/b.txt").unwrap(), b"x");
    }
    let unknown = Tree::of_checkout_revision(&work, "nothing");
    assert!(matches!(unknown, Err(RepoError::UnknownRevision { .. })));
}

#[test]
fn a_symlink_out_of_the_directory_and_a_big_file_are_not_read() {
    let world = World::new();
    let work = world.work();
    let too_big = usize::try_from(MAX_BLOB_BYTES).unwrap() + 1;
    world.push("big", &"x".repeat(too_big));
    let (_, committed) = Tree::of_checkout_revision(&work, "main").unwrap();
    for tree in [committed, Tree::of_directory(&work).unwrap()] {
        assert!(matches!(
            tree.read("big"),
            Err(RepoError::FileTooBig { .. })
        ));
    }
    for target in ["/etc/passwd", "../up.git/HEAD", "../../nowhere"] {
        let link = work.join("leak");
        std::os::unix::fs::symlink(target, &link).unwrap();
        let directory = Tree::of_directory(&work).unwrap();
        let refused = directory.read("leak");
        assert!(
            matches!(refused, Err(RepoError::NotAFile { .. })),
            "{target}"
        );
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_submodule_is_one_entry_in_a_commit_and_in_a_directory_checked_out_or_not() {
    let world = World::new();
    world.push("a", "x");
    let inner = world.work().join("deep/module");
    fs::create_dir_all(&inner).unwrap();
    git(&inner, &["init", "-q"]);
    fs::write(inner.join("b.yaml"), "x").unwrap();
    git(&inner, &["add", "-A"]);
    git(&inner, &["commit", "-q", "-m", "a"]);
    world.push("c", "x");
    let expected = [
        ("a", FileKind::Plain),
        ("c", FileKind::Plain),
        ("deep/module", FileKind::Submodule),
    ];
    let kinds = |tree: &Tree| -> Vec<_> {
        let files = tree.files().map(|file| (file.path.clone(), file.kind));
        files.collect()
    };
    let expected = expected.map(|(path, kind)| (path.to_owned(), kind));
    let (_, committed) = Tree::of_checkout_revision(&world.work(), "HEAD").unwrap();
    assert_eq!(kinds(&committed), expected);
    assert_eq!(kinds(&Tree::of_directory(&world.work()).unwrap()), expected);
    fs::remove_dir_all(&inner).unwrap();
    fs::create_dir(&inner).unwrap();
    assert_eq!(kinds(&Tree::of_directory(&world.work()).unwrap()), expected);
    let below = Tree::of_directory(&world.work().join("deep")).unwrap();
    assert_eq!(kinds(&below), [("module".to_owned(), FileKind::Submodule)]);
}
