//! The units as the NixOS modules have them, evaluated by real Nix with the stub of nixpkgs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::units::run;

/// Where a room has what is not the machine's own.
pub const PROGRAMS: &str = "/opt/bin";
pub const PATH: &str = "/opt/bin:/usr/bin:/usr/sbin";
/// Where it has Nix' libraries.
pub const LIBRARIES: &str = "/opt/nix";

/// What a module makes of `attribute` of the stub.
pub fn evaluate(attribute: &str) -> Value {
    let state = TempDir::new().unwrap();
    let stub = project().join("tests/nix/stub.nix");
    let mut command = Command::new(nix().join("bin/nix-instantiate"));
    command.args(["--eval", "--strict", "--json"]).arg(stub);
    command.args(["-A", attribute]);
    for (name, folder) in [
        ("NIX_STORE_DIR", "store"),
        ("NIX_STATE_DIR", "var"),
        ("NIX_LOG_DIR", "log"),
        ("NIX_CONF_DIR", "conf"),
        ("HOME", "home"),
    ] {
        command.env(name, state.path().join(folder));
    }
    serde_json::from_str(&run(&mut command)).unwrap()
}

/// A unit file as NixOS writes it of `systemd.services.NAME`; `exec` is its ExecStart in the room.
pub fn unit(service: &Value, exec: &str) -> String {
    let mut text = String::from("[Unit]\n");
    for (key, value) in service["unitConfig"].as_object().into_iter().flatten() {
        setting(&mut text, key, value);
    }
    for (key, from) in [
        ("Description", "description"),
        ("Wants", "wants"),
        ("After", "after"),
        ("Before", "before"),
    ] {
        setting(&mut text, key, &service[from]);
    }
    text.push_str("[Service]\n");
    writeln!(text, "Environment=\"PATH={PATH}\"").unwrap();
    for (name, value) in service["environment"].as_object().into_iter().flatten() {
        writeln!(text, "Environment=\"{name}={}\"", value.as_str().unwrap()).unwrap();
    }
    for (key, value) in service["serviceConfig"].as_object().unwrap() {
        if key == "ExecStart" {
            writeln!(text, "ExecStart={exec}").unwrap();
        } else {
            setting(&mut text, key, value);
        }
    }
    text
}

/// A list is its key once for each item.
fn setting(text: &mut String, key: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Array(items) => items.iter().for_each(|item| setting(text, key, item)),
        Value::String(value) => writeln!(text, "{key}={value}").unwrap(),
        value => writeln!(text, "{key}={value}").unwrap(),
    }
}

/// Puts Nix' programs into `folder`, which the room has as [`PROGRAMS`], and gives what it has to have as [`LIBRARIES`].
pub fn put_nix(folder: &Path) -> PathBuf {
    let program = folder.join("nix");
    std::fs::copy(nix().join("bin/nix"), &program).unwrap();
    // It knows its loader and its libraries by where they are out here.
    let ask = |what: &str| run(Command::new("patchelf").arg(what).arg(&program));
    let inside = |path: String| {
        let (_, below) = path.trim().rsplit_once("/root/").unwrap();
        Path::new(LIBRARIES).join(below)
    };
    let loader = inside(ask("--print-interpreter"));
    let libraries = inside(ask("--print-rpath"));
    let mut patch = Command::new("patchelf");
    patch.arg("--set-interpreter").arg(loader);
    patch.args(["--force-rpath", "--set-rpath"]).arg(libraries);
    run(patch.arg(&program));
    for name in ["nix-store", "nix-daemon"] {
        std::os::unix::fs::symlink("nix", folder.join(name)).unwrap();
    }
    nix().join("root")
}

/// Got as `make nix` gets it.
fn nix() -> PathBuf {
    let folder = project().join("target/nix");
    run(Command::new(project().join("tests/nix/get-nix.sh")).arg(&folder));
    folder
}

fn project() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    project.canonicalize().unwrap()
}
