//! Hetzner's own Python client drives the emulator.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use hetzner_emulator::{Emulator, Options};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn hcloud_python_gets_along_with_the_emulator() {
    let python = virtual_environment().await;
    let emulator = Emulator::start(Options::default()).await.unwrap();
    let script = sources().join("drive.py");
    // Without -B it would leave compiled files beside the sources.
    run(Command::new(python)
        .arg("-B")
        .arg(script)
        .arg(emulator.endpoint()))
    .await;
    emulator.shutdown().await;
}

/// The Python of a virtual environment with the pinned requirements, made once per target directory.
async fn virtual_environment() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hcloud-python");
    fs::create_dir_all(&place).unwrap();
    // Released when the file is dropped: two test runs don't build it at the same time.
    let lock = File::create(place.join("lock")).unwrap();
    lock.lock().unwrap();

    let (venv, complete) = (place.join("venv"), place.join("complete"));
    let python = venv.join("bin/python");
    let requirements = sources().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements).unwrap();
    if fs::read_to_string(&complete).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv))
    .await;
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ]);
    run(install.arg(&requirements)).await;
    fs::write(&complete, wanted).unwrap();
    python
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hcloud_python")
}

async fn run(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
