//! Machines with systems: what a machine does about its disk, by hand, without fabrik.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Bed, Build, Machine, Options, State, SystemChange, system};

const BOOT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_system_is_tried_kept_and_fallen_back_from() -> Result<()> {
    let bed = Bed::start(Options {
        systems: true,
        ..Options::default()
    })
    .await?;
    let machine = bed.server_machine(0);
    let first = machine.system()?;
    assert_eq!(
        first.k3s,
        format!("{}+k3s1", bed.options().kubernetes_version)
    );
    system::write(bed.git(), &bed.options().kubernetes_version, Build::Tested)?;

    // Another package: activated in place, and by no means the default.
    let second = build(&bed, machine, &SystemChange::Package("2".to_owned()))?;
    ensure!(second != first.path, "the same system");
    let boot_id = boot_id(machine)?;
    run(
        machine,
        "systemd-run",
        &[
            "--unit=try",
            "--collect",
            "nixos-rebuild",
            "test",
            "--store-path",
            &second,
            "--no-reexec",
        ],
    )?;
    bed.wait_until("the unit has ended", BOOT, async || {
        Ok(run(machine, "systemctl", &["is-active", "try"])
            .is_err()
            .then_some(()))
    })
    .await?;
    assert_eq!(machine.system()?.path, second);
    machine.reboot().await;
    assert_ne!(boot_id_after(machine).await?, boot_id);
    assert_eq!(machine.system()?.path, first.path);

    // Made the default: an ordinary boot starts it, and with it the kernel's command line is its own.
    run(
        machine,
        "nixos-rebuild",
        &["boot", "--store-path", &second, "--no-reexec"],
    )?;
    run(machine, "systemctl", &["reboot"])?;
    booted(machine, 3).await?;
    assert_eq!(machine.system()?.path, second);

    // A kernel that panics is booted once and never again.
    let panics = build(&bed, machine, &SystemChange::Panics)?;
    let profile = machine
        .root()
        .context("a disk")?
        .path("nix/var/nix/profiles/system");
    let profile = profile.to_str().context("UTF-8")?;
    run(
        machine,
        "nix-env",
        &["--profile", profile, "--set", &panics],
    )?;
    run(
        machine,
        "nix-env",
        &["--profile", profile, "--switch-generation", "2"],
    )?;
    let root = machine.root().context("a disk")?;
    let install = root.path(&second).join("bin/switch-to-configuration");
    ensure!(Command::new(install).arg("boot").status()?.success());
    run(
        machine,
        "bootctl",
        &["--esp-path=/boot", "set-oneshot", "nixos-generation-3.conf"],
    )?;
    run(machine, "systemctl", &["reboot"])?;
    booted(machine, 5).await?;
    assert_eq!(machine.system()?.path, second);
    bed.shutdown().await;
    Ok(())
}

/// Evaluates the work tree with a change and builds its system for servers in the machine's store.
fn build(bed: &Bed, machine: &Machine, change: &SystemChange) -> Result<String> {
    bed.change_system(system::SERVERS, change)?;
    let flake = format!(
        "path:{}#nixosConfigurations.servers.config.system.build.toplevel",
        bed.git().dir().display()
    );
    let store = machine
        .root()
        .context("a disk")?
        .dir()
        .display()
        .to_string();
    run(
        machine,
        "nix",
        &[
            "build",
            "--no-link",
            "--print-out-paths",
            "--store",
            &store,
            &flake,
        ],
    )
}

/// Runs a program of the machine.
fn run(machine: &Machine, program: &str, arguments: &[&str]) -> Result<String> {
    let programs = machine.root().context("a disk")?.programs();
    let path = std::env::var("PATH")?;
    let output = Command::new(programs.join(program))
        .args(arguments)
        .env("PATH", format!("{}:{path}", programs.display()))
        .output()?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn boot_id(machine: &Machine) -> Result<String> {
    match machine.state() {
        State::Running { boot_id } => Ok(boot_id),
        other => anyhow::bail!("it is {other:?}"),
    }
}

async fn boot_id_after(machine: &Machine) -> Result<String> {
    machine.wait_running(BOOT).await?;
    boot_id(machine)
}

/// Waits until the machine has booted so many times and runs.
async fn booted(machine: &Machine, times: u32) -> Result<()> {
    fabrik_bed::wait::until("it has booted", BOOT, async || {
        let runs = matches!(machine.state(), State::Running { .. });
        Ok((runs && machine.boots() == times).then_some(()))
    })
    .await
}
