//! Commits that are small to push and endless to list.

use std::io::Write;
use std::process::Stdio;

use super::*;

#[test]
fn a_folder_that_stands_in_itself_many_times_over_is_refused_at_once() {
    let world = World::new();
    let file = object(&world, &["hash-object", "-w", "--stdin"], "x");
    let line = |name: usize| format!("100644 blob {file}\t{name}\n");
    let mut tree = object(&world, &["mktree"], &(0..10).map(line).collect::<String>());
    for _ in 0..9 {
        tree = folder_of(&world, &tree, 10);
    }
    refused_as_too_many(&world, &tree);
}

#[test]
fn folders_count_although_they_hold_no_file() {
    let world = World::new();
    let mut tree = object(&world, &["mktree"], "");
    for _ in 0..5 {
        tree = folder_of(&world, &tree, 10);
    }
    refused_as_too_many(&world, &tree);
}

#[test]
fn a_path_that_grows_beyond_all_file_systems_is_refused() {
    let world = World::new();
    let mut tree = object(&world, &["mktree"], "");
    for _ in 0..25 {
        let line = format!("040000 tree {tree}\t{}\n", "d".repeat(200));
        tree = object(&world, &["mktree"], &line);
    }
    let refused = Tree::of_checkout_revision(&world.work(), &commit(&world, &tree)).unwrap_err();
    assert!(
        matches!(refused, RepoError::PathTooLong { .. }),
        "{refused}"
    );
    let told = refused.into_diagnostic().unwrap().to_string();
    assert!(told.len() < 200, "{told}");
}

fn refused_as_too_many(world: &World, tree: &str) {
    let refused = Tree::of_checkout_revision(&world.work(), &commit(world, tree));
    assert!(
        matches!(refused, Err(RepoError::TooManyFiles { .. })),
        "{refused:?}"
    );
}

fn folder_of(world: &World, tree: &str, times: usize) -> String {
    let line = |name: usize| format!("040000 tree {tree}\t{name}\n");
    object(
        world,
        &["mktree"],
        &(0..times).map(line).collect::<String>(),
    )
}

fn commit(world: &World, tree: &str) -> String {
    object(world, &["commit-tree", tree, "-m", "a"], "")
}

/// Writes an object into the checkout's repository, and returns its id.
fn object(world: &World, args: &[&str], input: &str) -> String {
    let mut child = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .arg("-C")
        .arg(world.work())
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
