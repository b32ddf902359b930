//! What git ignores in a directory is in no commit, and so it is not listed.

use super::*;

fn paths(dir: &Path) -> Vec<String> {
    let tree = Tree::of_directory(dir).unwrap();
    tree.files().map(|file| file.path.clone()).collect()
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

const RULES: &str = "*.agekey\n/result\nsecrets/*.decrypted.*\nbuilt/\n/kept\n!keep.agekey\n";
const FILES: [(&str, &str); 8] = [
    (".gitignore", RULES),
    ("a/deep/my.agekey", "x"),
    ("keep.agekey", "x"),
    ("secrets/a.decrypted.yaml", "x"),
    ("secrets/.gitignore", "b.yaml\n"),
    ("secrets/b.yaml", "x"),
    ("a/built/deep/er.txt", "x"),
    ("new.txt", "x"),
];

#[test]
fn what_is_ignored_and_not_tracked_is_left_out_and_all_else_is_listed() {
    let world = World::new();
    let work = world.work();
    write(&work, &FILES);
    write(&work, &[("kept/tracked", "x"), ("kept/other", "x")]);
    git(&work, &["add", "--force", "kept/tracked"]);
    std::os::unix::fs::symlink("/nowhere", work.join("result")).unwrap();
    write(&work, &[(".git/info/exclude", "/local\n"), ("local", "x")]);
    let expected = [
        ".gitignore",
        "keep.agekey",
        "kept/tracked",
        "new.txt",
        "secrets/.gitignore",
    ];
    assert_eq!(paths(&work), expected);
    let told = git(
        &work,
        &["ls-files", "--cached", "--others", "--exclude-standard"],
    );
    let mut told: Vec<_> = told.lines().collect();
    told.sort_unstable();
    assert_eq!(told, expected);
    assert_eq!(paths(&work.join("secrets")), [".gitignore"]);

    let tree = Tree::of_directory(&work).unwrap();
    for path in ["secrets/b.yaml", "a/built/deep/er.txt", "kept/other"] {
        assert!(tree.is_ignored(path), "{path}");
    }
    for path in ["new.txt", "kept/tracked", "secrets", "nothing"] {
        assert!(!tree.is_ignored(path), "{path}");
    }
}

#[test]
fn an_ignored_folder_is_not_counted_and_an_ignored_repository_is_no_submodule() {
    let world = World::new();
    let work = world.work();
    write(&work, &[(".gitignore", ".direnv\n/other\n")]);
    for folder in 0..=MAX_FILES / 100 {
        for file in 0..100 {
            let path = work.join(format!(".direnv/{folder}/{file}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::File::create(path).unwrap();
        }
    }
    git(&work, &["init", "-q", "other"]);
    assert_eq!(paths(&work), [".gitignore"]);
}

#[test]
fn what_is_in_no_repository_or_in_an_ignored_part_of_one_is_listed_whole() {
    let world = World::new();
    let all = FILES.map(|(path, _)| path.to_owned()).to_vec();
    let sorted = |mut paths: Vec<String>| {
        paths.sort();
        paths
    };
    let alone = world.dir.path().join("alone");
    write(&alone, &FILES);
    assert_eq!(paths(&alone), sorted(all.clone()));
    write(&world.work(), &[(".gitignore", "/clusters\n")]);
    let inside = world.work().join("clusters/demo");
    write(&inside, &FILES);
    assert_eq!(paths(&inside), sorted(all));
}

#[test]
fn a_tracked_folder_that_a_rule_names_is_judged_by_the_rules_inside() {
    let world = World::new();
    let work = world.work();
    let files = [
        (".gitignore", "sub/\nignored.txt\n"),
        ("sub/tracked.txt", "x"),
        ("sub/ignored.txt", "x"),
    ];
    write(&work, &files);
    git(&work, &["add", "--force", "sub/tracked.txt"]);
    assert_eq!(paths(&work.join("sub")), ["tracked.txt"]);
}
