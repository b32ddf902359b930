//! Files that the real sops encrypted, opened, looked at and tampered with.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;
use crate::repo::{BlobId, Tree};

mod person;

/// The planted secret: it may appear in no error.
const SECRET: &str = "hunter2-planted";
const SECRET_YAML: &str = "apiVersion: v1\nkind: Secret\nstringData:\n  token: hunter2-planted\n  empty: \"\"\n  n: 5\n  list: [x, true]\n";

/// A key of ours, and of a stranger.
struct Keys {
    dir: tempfile::TempDir,
    ours: String,
    stranger: String,
}

impl Keys {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            use age::secrecy::ExposeSecret;
            let identity = age::x25519::Identity::generate();
            let text = format!("# comment\n{}\n", identity.to_string().expose_secret());
            std::fs::write(dir.path().join(name), text).unwrap();
            identity.to_public().to_string()
        };
        let (ours, stranger) = (make("ours"), make("stranger"));
        Self {
            dir,
            ours,
            stranger,
        }
    }

    fn sops(&self) -> Sops {
        Sops::new(self.dir.path().join("ours"), Some(binary()))
    }
}

fn binary() -> PathBuf {
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/parts/sops-3.13.3/sops");
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    std::env::var_os("FABRIK_SOPS")
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&in_path).map(|dir| dir.join("sops")))
        .chain([parts])
        .find(|candidate| candidate.is_file())
        .expect(
            "sops is needed: GOBIN=~/bin go install github.com/getsops/sops/v3/cmd/sops@v3.13.3",
        )
}

fn encrypt(path: &str, plaintext: &str, args: &[&str]) -> String {
    let format = Format::of_path(path).as_str();
    let mut child = Command::new(binary())
        .args(["encrypt", "--input-type", format, "--output-type", format])
        .args(["--filename-override", path])
        .args(args)
        .env_remove("SOPS_AGE_KEY_FILE")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(plaintext.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Into a folder that stands for a repository.
fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

async fn open(sops: &Sops, path: &str, content: &str) -> Result<String, SecretsError> {
    let secret = sops
        .decrypt(path, &BlobId::of(content.as_bytes()), content.as_bytes())
        .await?;
    Ok(secret.expose_str().unwrap().to_owned())
}

fn variant(error: &SecretsError) -> String {
    let shown = format!("{error:?}");
    let name = shown.split(|c: char| !c.is_alphanumeric()).next();
    name.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn each_format_is_opened_as_sops_opens_it_and_has_a_shape() {
    let keys = Keys::new();
    let sops = keys.sops();
    for (path, plaintext) in [
        ("a.yaml", SECRET_YAML),
        ("docs.yml", "a: hunter2-planted\n---\nb: two\n"),
        ("a.json", "{\"a\": {\"b\": [\"hunter2-planted\", 1, null]}}"),
        ("a.env", "# c\nA=hunter2-planted\nB=\n"),
        ("a.ini", "[s]\na = hunter2-planted\n"),
        ("a.bin", "hunter2-planted, whole\n"),
    ] {
        let content = encrypt(path, plaintext, &["--age", &keys.ours]);
        let Shape::Sops(file) = shape(path, content.as_bytes()) else {
            panic!("{path}: no shape")
        };
        assert_eq!(file.problems, [""; 0], "{path}");
        assert_eq!(file.recipients, std::slice::from_ref(&keys.ours), "{path}");
        let opened = open(&sops, path, &content).await.unwrap();
        let on_disk = keys.dir.path().join(path);
        std::fs::write(&on_disk, &content).unwrap();
        let reference = Command::new(binary())
            .arg("decrypt")
            .arg(&on_disk)
            .env("SOPS_AGE_KEY_FILE", keys.dir.path().join("ours"))
            .output()
            .unwrap();
        assert_eq!(opened.as_bytes(), reference.stdout, "{path}");
        let printed = decrypt_file(&sops, &on_disk).await.unwrap();
        assert_eq!(printed.expose(), reference.stdout, "{path}");
        assert_eq!(shape(path, plaintext.as_bytes()), Shape::Plain, "{path}");
    }
}

#[tokio::test]
async fn tampering_is_refused_and_no_error_quotes_a_value() {
    let keys = Keys::new();
    let sops = keys.sops();
    let partial = [
        "--age",
        &keys.ours,
        "--encrypted-regex",
        "^(data|stringData)$",
    ];
    let good = encrypt("a.yaml", SECRET_YAML, &partial);
    assert!(open(&sops, "a.yaml", &good).await.is_ok());
    let line = |start: &str| {
        good.lines()
            .find(|line| line.trim_start().starts_with(start))
            .unwrap()
            .to_owned()
    };
    let leaked = line("token:").split("ENC").next().unwrap().to_owned() + SECRET;
    for (what, content, expected) in [
        (
            "clear value changed",
            good.replace("kind: Secret", "kind: Secrets"),
            "MacMismatch",
        ),
        (
            "value removed",
            good.replace(&format!("{}\n", line("token:")), ""),
            "MacMismatch",
        ),
        (
            "value in the clear",
            good.replace(&line("token:"), &leaked),
            "Malformed",
        ),
        (
            "key renamed",
            good.replace("    token: ENC", "    other: ENC"),
            "ValueBroken",
        ),
        (
            "time changed",
            good.replace("lastmodified: \"20", "lastmodified: \"19"),
            "MacMismatch",
        ),
        (
            "MAC removed",
            good.replace(&format!("{}\n", line("mac:")), ""),
            "Malformed",
        ),
        (
            "metadata removed",
            good.split("sops:\n").next().unwrap().to_owned(),
            "Malformed",
        ),
        (
            "merge conflict",
            good.replace("kind: Secret\n", "<<<<<<< ours\n  kind: [\n"),
            "Malformed",
        ),
        ("never encrypted", SECRET_YAML.to_owned(), "NotSops"),
    ] {
        let error = open(&sops, "a.yaml", &content).await.unwrap_err();
        assert_eq!(variant(&error), expected, "{what}: {error}");
        assert!(error.is_fault_of_commit(), "{what}");
        assert!(
            !format!("{error} {error:?}").contains(SECRET),
            "{what}: {error}"
        );
        // Without our own checks in front, sops itself quotes the value.
        let unchecked = sops.open("a.yaml", content.as_bytes()).await.unwrap_err();
        assert!(
            !format!("{unchecked} {unchecked:?}").contains(SECRET),
            "{what}: {unchecked}"
        );
    }
    let mac_only = good.replace(
        "    lastmodified:",
        "    mac_only_encrypted: true\n    lastmodified:",
    );
    let error = open(&sops, "a.yaml", &mac_only).await.unwrap_err();
    assert_eq!(variant(&error), "MacOnlyEncrypted");
}

#[tokio::test]
async fn a_wrong_recipient_is_told_with_the_file_s_and_ours() {
    let keys = Keys::new();
    let content = encrypt("a.yaml", SECRET_YAML, &["--age", &keys.stranger]);
    for error in [
        open(&keys.sops(), "a.yaml", &content).await.unwrap_err(),
        keys.sops()
            .open("a.yaml", content.as_bytes())
            .await
            .unwrap_err(),
    ] {
        assert_eq!(variant(&error), "WrongRecipient");
        let text = error.to_string();
        assert!(
            text.contains(&keys.ours) && text.contains(&keys.stranger),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_machine_that_is_not_set_up_is_no_fault_of_the_commit() {
    let keys = Keys::new();
    let content = encrypt("a.yaml", SECRET_YAML, &["--age", &keys.ours]);
    let ours = keys.dir.path().join("ours");
    let empty = keys.dir.path().join("empty");
    std::fs::write(&empty, "# nothing\n").unwrap();
    for (key, program, expected) in [
        (keys.dir.path().join("none"), binary(), "KeyFileMissing"),
        (empty, binary(), "KeyFileInvalid"),
        (ours.clone(), "/nowhere/sops".into(), "SopsMissing"),
        (ours.clone(), ours, "SopsUnusable"),
    ] {
        let error = open(&Sops::new(key, Some(program)), "a.yaml", &content)
            .await
            .unwrap_err();
        assert_eq!(variant(&error), expected, "{error}");
        assert!(!error.is_fault_of_commit());
    }
}

#[tokio::test]
async fn what_was_opened_is_kept_until_no_commit_uses_it() {
    let keys = Keys::new();
    let content = encrypt("a.yaml", SECRET_YAML, &["--age", &keys.ours]);
    let blob = BlobId::of(content.as_bytes());
    let program = keys.dir.path().join("sops");
    std::fs::copy(binary(), &program).unwrap();
    let sops = Sops::new(keys.dir.path().join("ours"), Some(program.clone()));
    open(&sops, "a.yaml", &content).await.unwrap();
    std::fs::remove_file(program).unwrap();
    assert!(
        open(&sops, "a.yaml", &content).await.is_ok(),
        "served from memory"
    );
    sops.retain(&BTreeSet::from([blob]));
    assert!(
        open(&sops, "a.yaml", &content).await.is_ok(),
        "still in use"
    );
    sops.retain(&BTreeSet::new());
    assert_eq!(
        variant(&open(&sops, "a.yaml", &content).await.unwrap_err()),
        "SopsMissing"
    );
}

#[test]
fn a_file_that_lacks_a_recipient_of_its_rule_is_told() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &str| write(dir.path(), path, content);
    let Keys { ours, stranger, .. } = &keys;
    let closed = || closed_to_some(&Tree::of_directory(dir.path()).unwrap()).unwrap();
    let for_us = encrypt("a.yaml", SECRET_YAML, &["--age", ours]);
    let for_both = encrypt(
        "a.yaml",
        SECRET_YAML,
        &["--age", &format!("{ours},{stranger}")],
    );
    write("secrets/us.yaml", &for_us);
    write("secrets/both.yaml", &for_both);
    write("elsewhere.yaml", &for_us);
    assert_eq!(closed(), [], "there are no rules");
    for both in [
        format!("age: {ours}, {stranger}"),
        format!("age: [{stranger}, {ours}]"),
    ] {
        let rules = format!(
            "creation_rules:\n  - path_regex: ^secrets/\n    {both}\n  - kms: arn:aws:kms:x\n"
        );
        write(".sops.yaml", &rules);
        let told: Vec<String> = closed().iter().map(ToString::to_string).collect();
        let expected =
            format!("secrets/us.yaml: is not encrypted to {stranger}, whom .sops.yaml names");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(&expected), "{told:?}");
        assert!(
            told[0].contains("sops updatekeys secrets/us.yaml"),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn check_opens_ours_looks_at_others_and_reports_every_fault() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &str| write(dir.path(), path, content);
    let ours = encrypt("a.yaml", SECRET_YAML, &["--age", &keys.ours]);
    write("secrets/a.yaml", &ours);
    write(
        "secrets/bad.yaml",
        &ours.replace("lastmodified: \"20", "lastmodified: \"19"),
    );
    write(
        "secrets/nodes.yaml",
        &encrypt("a.yaml", SECRET_YAML, &["--age", &keys.stranger]),
    );
    write("secrets/clear.yaml", SECRET_YAML);
    write(".sops.yaml", "creation_rules:\n  - path_regex: ^secrets/\n");
    let tree = Tree::of_directory(dir.path()).unwrap();
    let found = check(&tree, Some(&keys.sops())).await.unwrap();
    let verdicts: Vec<_> = found
        .files
        .iter()
        .map(|(path, verdict)| (path.as_str(), *verdict))
        .collect();
    let expected = [
        ("secrets/a.yaml", Verdict::Opened),
        ("secrets/bad.yaml", Verdict::Faulty),
        ("secrets/nodes.yaml", Verdict::WellFormed),
    ];
    assert_eq!(verdicts, expected);
    let places: Vec<_> = found
        .diagnostics
        .iter()
        .map(|fault| fault.place.file.as_str())
        .collect();
    assert_eq!(places, ["secrets/bad.yaml", "secrets/clear.yaml"]);
    assert!(
        found
            .diagnostics
            .iter()
            .all(|fault| !fault.to_string().contains(SECRET))
    );
    let without_key = check(&tree, None).await.unwrap();
    assert!(
        without_key
            .files
            .iter()
            .all(|(_, verdict)| *verdict == Verdict::WellFormed)
    );
}
