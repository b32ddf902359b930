//! What is written to a disk in rescue is what a snapshot has, and what a server of that snapshot begins with.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Bed, Options, State};
use reqwest::Method;
use serde_json::{Value, json};

use crate::ssh::Laptop;

const BOOT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_written_in_rescue_becomes_an_image() -> Result<()> {
    let bed = Bed::start(Options {
        servers: 0,
        action_duration: Duration::from_millis(50),
        ..Options::default()
    })
    .await?;
    let laptop = Laptop::new(&bed)?;
    let api = bed.hetzner();
    let key = json!({"name": "seed", "public_key": laptop.public_key()?});
    api.call(Method::POST, "/ssh_keys", &key).await?;
    let order = json!({"name": "build", "server_type": "cx23", "image": "debian-12"});
    let (server, address) = api.create_server(&order).await?;
    let host = address.to_string();
    idle(&bed, server).await?;
    rescue(&bed, server, "build").await?;

    let said =
        "hostname; blockdev --getsize64 /dev/sda; head -c 4 /dev/sda | od -An -tx1; test ! -w /etc";
    let said = laptop.run(&host, said, b"")?;
    assert_eq!(said, "rescue\n40000000000\n 00 00 00 00");
    let image: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = ring::digest::digest(&ring::digest::SHA256, &image);
    let size = image.len();
    laptop.run(
        &host,
        "zstd -dc | dd of=/dev/sda bs=4M conv=fsync",
        &zstd(&bed, &image)?,
    )?;
    let read_back = format!("head -c {size} /dev/sda | sha256sum");
    let read_back = laptop.run(&host, &read_back, b"")?;
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(read_back, format!("{hex}  -"));
    // A shorter image on top: the disk is as long as before, and the rest of the longer one is there.
    laptop.run(&host, "dd of=/dev/sda", b"short")?;
    let rest = laptop.run(
        &host,
        "blockdev --getsize64 /dev/sda; head -c 8 /dev/sda | od -An -tx1",
        b"",
    )?;
    assert_eq!(rest, "40000000000\n 73 68 6f 72 74 00 00 00");

    // Each boot has another host key, and one boot is all that it lasts.
    rescue(&bed, server, "build").await?;
    let stranger = laptop.ssh(&host, "true", b"")?;
    ensure!(
        !stranger.status.success(),
        "the same host key after another boot"
    );
    std::fs::remove_file(&laptop.known_hosts)?;
    laptop.run(&host, "true", b"")?;
    act(&bed, server, "poweroff", &json!({})).await?;
    ensure!(
        !laptop.ssh(&host, "true", b"")?.status.success(),
        "it is off"
    );

    let made = act(&bed, server, "create_image", &json!({"type": "snapshot"})).await?;
    let image = made["image"]["id"].as_u64().context("an image")?;
    api.delete_server(server).await?;
    let order = json!({"name": "copy", "server_type": "cx33", "image": image});
    let (copy, address) = api.create_server(&order).await?;
    idle(&bed, copy).await?;
    rescue(&bed, copy, "copy").await?;
    std::fs::remove_file(&laptop.known_hosts)?;
    let said = "blockdev --getsize64 /dev/sda; head -c 5 /dev/sda";
    assert_eq!(
        laptop.run(&address.to_string(), said, b"")?,
        "80000000000\nshort"
    );

    let file = bed.dir().join("images").join(image.to_string());
    ensure!(file.exists(), "no file {}", file.display());
    let path = format!("/images/{image}");
    api.call(Method::DELETE, &path, &Value::Null).await?;
    bed.wait_until("the file is gone", BOOT, async || {
        Ok((!file.exists()).then_some(()))
    })
    .await?;
    bed.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_what_was_written_to_its_disk() -> Result<()> {
    let bed = Bed::start(Options {
        servers: 0,
        systems: true,
        action_duration: Duration::from_millis(50),
        ..Options::default()
    })
    .await?;
    let image = bed.dir().join("image.tar");
    bed.write_image(&image)?;
    let bytes = std::fs::read(&image)?;
    bed.write_image(&image)?;
    ensure!(
        bytes == std::fs::read(&image)?,
        "the same image has other bytes"
    );

    let laptop = Laptop::new(&bed)?;
    let api = bed.hetzner();
    let key = json!({"name": "seed", "public_key": laptop.public_key()?});
    api.call(Method::POST, "/ssh_keys", &key).await?;
    let order = json!({"name": "build", "server_type": "cx23", "image": "debian-12"});
    let (server, address) = api.create_server(&order).await?;
    idle(&bed, server).await?;
    rescue(&bed, server, "build").await?;
    laptop.run(&address.to_string(), "dd of=/dev/sda bs=4M", &bytes)?;
    act(&bed, server, "poweroff", &json!({})).await?;
    let made = act(&bed, server, "create_image", &json!({"type": "snapshot"})).await?;

    let user_data = json!({
        "fabrik": 1, "role": "agent", "pool": "workers", "node-name": "worker",
        "servers": ["https://127.0.0.1:1"], "token": "K10ca::id.secret",
    });
    let order = json!({
        "name": "worker", "server_type": "cx23", "image": made["image"]["id"],
        "user_data": user_data.to_string(),
    });
    api.create_server(&order).await?;
    let machine = bed.machine_appears("worker", BOOT).await?;
    let system = bed
        .wait_until("it has booted", BOOT, async || Ok(machine.system().ok()))
        .await?;
    assert_eq!(
        system.k3s,
        format!("{}+k3s1", bed.options().kubernetes_version)
    );
    let root = machine.root().context("a root")?;
    std::fs::write(root.path("var-of-its-own"), "kept")?;
    machine.reboot().await;
    bed.wait_until("it has booted again", BOOT, async || {
        Ok((machine.boots() == 2 && machine.system().is_ok()).then_some(()))
    })
    .await?;
    ensure!(
        root.path("var-of-its-own").exists(),
        "it boots another disk"
    );
    bed.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_system_does_not_boot() -> Result<()> {
    let bed = Bed::start(Options {
        servers: 0,
        systems: true,
        action_duration: Duration::from_millis(50),
        ..Options::default()
    })
    .await?;
    let user_data =
        json!({"fabrik": 1, "role": "agent", "node-name": "worker", "servers": [], "token": "t"});
    let order = json!({
        "name": "worker", "server_type": "cx23", "image": "debian-12", "user_data": user_data.to_string(),
        "start_after_create": false,
    });
    let (server, _) = bed.hetzner().create_server(&order).await?;
    let disk = bed
        .dir()
        .join("machines")
        .join(server.to_string())
        .join("disk");
    std::fs::create_dir_all(disk.parent().context("a folder")?)?;
    std::fs::write(disk, [0; 4096])?;
    idle(&bed, server).await?;
    act(&bed, server, "poweron", &json!({})).await?;
    let machine = bed.machine_appears("worker", BOOT).await?;
    let refused = machine.wait_running(BOOT).await.unwrap_err().to_string();
    ensure!(refused.contains("no system on this disk"), "{refused}");
    bed.shutdown().await;
    Ok(())
}

/// Boots the rescue system, for who has the key `seed`.
async fn rescue(bed: &Bed, server: u64, name: &str) -> Result<()> {
    let wanted = json!({"type": "linux64", "ssh_keys": ["seed"]});
    act(bed, server, "enable_rescue", &wanted).await?;
    act(bed, server, "reset", &json!({})).await?;
    let machine = bed.machine_appears(name, BOOT).await?;
    machine
        .wait_for(BOOT, |state| *state == State::Rescue)
        .await?;
    Ok(())
}

/// Does something to a server and waits until that is done.
async fn act(bed: &Bed, server: u64, action: &str, body: &Value) -> Result<Value> {
    let path = format!("/servers/{server}/actions/{action}");
    let answer = bed.hetzner().call(Method::POST, &path, body).await?;
    idle(bed, server).await?;
    Ok(answer)
}

async fn idle(bed: &Bed, server: u64) -> Result<()> {
    bed.wait_until("the server is not locked", BOOT, async || {
        let path = format!("/servers/{server}");
        let shown = bed.hetzner().call(Method::GET, &path, &Value::Null).await?;
        Ok(
            (shown["server"]["locked"] == false && shown["server"]["status"] != "initializing")
                .then_some(()),
        )
    })
    .await
}

fn zstd(bed: &Bed, bytes: &[u8]) -> Result<Vec<u8>> {
    let file = bed.dir().join("image");
    std::fs::write(&file, bytes)?;
    let output = Command::new("zstd")
        .args(["-q", "-c"])
        .arg(&file)
        .output()?;
    ensure!(output.status.success(), "zstd: {}", output.status);
    Ok(output.stdout)
}
