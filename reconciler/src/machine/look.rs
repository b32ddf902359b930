//! What a machine is, before anything is done to it.

use fabrik_core::id::ServerId;
use fabrik_core::machines::means::Found;
use serde::Deserialize;

use super::ssh::ROOT;
use super::{MachineError, Pinned};
use crate::node::identify::STATE_DIR;

/// What is asked of it, in the shell that each Linux has. Nothing is changed by it.
const ASK: &str = r#"ID=; . /etc/os-release 2>/dev/null
echo "os=$ID"
echo "arch=$(uname -m)"
echo "user=$(id -u)"
echo "from=${SSH_CONNECTION%% *}"
echo "port=${SSH_CONNECTION##* }"
echo "memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
echo "identity=$(LC_ALL=C cat /STATE/identity.json 2>&1 | tr -d '\n')"
[ -e /etc/rancher/k3s ] || [ -e /var/lib/rancher/k3s ] && echo "k3s=yes"
echo "disk="
lsblk --json --bytes --output NAME,TYPE,SIZE,MODEL,FSTYPE,MOUNTPOINT DISK 2>&1 || echo none"#;

/// What `cat` says of a file that is not there (strerror(3), ENOENT), and of no other.
const ABSENT: &str = "No such file or directory";
/// How many characters of what can't be understood are shown.
const MAX_QUOTED: usize = 200;

#[derive(Deserialize)]
struct Devices {
    blockdevices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    size: serde_json::Value,
    model: Option<String>,
    fstype: Option<String>,
    mountpoint: Option<String>,
    #[serde(default)]
    children: Vec<Device>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    node: String,
    server: ServerId,
}

/// Asks the machine, by its pinned key. One that was installed before lets root in, and no other.
pub async fn look(way: Pinned) -> Result<(Pinned, Found), MachineError> {
    let failed = match ask(&way).await {
        Ok(found) => return Ok((way, found)),
        Err(error) => error,
    };
    if !matches!(failed, MachineError::Unreachable { .. }) || way.machine().user == ROOT {
        return Err(failed);
    }
    let way = way.installed();
    let found = ask(&way).await.map_err(|_| failed)?;
    Ok((way, found))
}

async fn ask(way: &Pinned) -> Result<Found, MachineError> {
    // A path of a spec has nothing in it that a shell would take for more.
    let line = ASK
        .replace("STATE", STATE_DIR)
        .replace("DISK", &way.machine().disk);
    let said = way.run("looking at it", &line, None).await?;
    let found = parse(&String::from_utf8_lossy(&said));
    found.map_err(|said| MachineError::Identity {
        machine: way.name().clone(),
        said,
    })
}

/// # Errors
/// What was said of a machine that is a node, nobody knows which.
fn parse(said: &str) -> Result<Found, String> {
    let (facts, disk) = said.split_once("disk=\n").unwrap_or((said, ""));
    let fact = |name: &str| {
        let mut lines = facts.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        clean(value.unwrap_or_default())
    };
    let identity = fact("identity");
    let kept = if identity.ends_with(ABSENT) {
        None
    } else {
        let kept = serde_json::from_str::<Kept>(&identity);
        Some(kept.map_err(|_| identity.chars().take(MAX_QUOTED).collect::<String>())?)
    };
    let devices: Option<Devices> = serde_json::from_str(disk).ok();
    let disk = devices.and_then(|devices| devices.blockdevices.into_iter().next());
    Ok(Found {
        os: fact("os"),
        system: format!("{}-linux", fact("arch")),
        memory_kib: fact("memory").parse().unwrap_or(0),
        // One of a link has the interface behind it.
        from: fact("from")
            .split('%')
            .next()
            .and_then(|at| at.parse().ok()),
        port: fact("port").parse().ok(),
        node: kept.map(|kept| (clean(&kept.node), kept.server)),
        has_k3s: fact("k3s") == "yes",
        disk: disk.filter(|d| d.kind == "disk").map(|disk| {
            let mut lines = Vec::new();
            describe(&disk, 0, &mut lines);
            lines
        }),
    })
}

fn describe(device: &Device, depth: usize, lines: &mut Vec<String>) {
    let size = device.size.as_u64();
    let size = size.or_else(|| device.size.as_str()?.parse().ok());
    let gigabytes =
        size.map(|bytes| format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10));
    let mounted = device
        .mountpoint
        .as_ref()
        .map(|at| format!("mounted at {at}"));
    let parts = [
        gigabytes,
        device.model.clone(),
        device.fstype.clone(),
        mounted,
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .flatten()
        .map(|part| clean(part.trim()))
        .collect();
    let indent = "  ".repeat(depth);
    lines.push(format!(
        "{indent}{} {}",
        clean(&device.name),
        parts.join(", ")
    ));
    for child in &device.children {
        describe(child, depth + 1, lines);
    }
}

/// Without what could mislead a terminal.
fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"os=debian
arch=x86_64
user=0
from=192.168.1.7
port=22
memory=16303420
identity=cat: /var/lib/fabrik-identity/identity.json: No such file or directory
disk=
{"blockdevices": [{"name": "nvme0n1", "type": "disk", "size": 512110190592, "model": "SAMSUNG MZVL", "fstype": null,
 "mountpoint": null, "children": [
 {"name": "nvme0n1p1", "type": "part", "size": "536870912", "model": null, "fstype": "vfat", "mountpoint": "/boot/efi"},
 {"name": "nvme0n1p2", "type": "part", "size": 511000000000, "model": null, "fstype": "ext4", "mountpoint": "/"}]}]}
"#;

    #[test]
    fn what_would_be_wiped_is_seen() {
        let found = parse(SAID).unwrap();
        assert_eq!(found.to_string(), "debian, x86_64-linux, 16 GB of memory");
        assert_eq!((found.node.as_ref(), found.has_k3s), (None, false));
        let seen = (found.from, found.port);
        assert_eq!(seen, ("192.168.1.7".parse().ok(), Some(22)));
        let of_link = parse(&SAID.replace("192.168.1.7", "fe80::7%eth0"));
        assert_eq!(of_link.unwrap().from, "fe80::7".parse().ok());
        assert_eq!(parse(&SAID.replace("192.168.1.7", "")).unwrap().from, None);
        let expected = [
            "nvme0n1 512.1 GB, SAMSUNG MZVL",
            "  nvme0n1p1 0.5 GB, vfat, mounted at /boot/efi",
            "  nvme0n1p2 511.0 GB, ext4, mounted at /",
        ];
        assert_eq!(found.disk.unwrap(), expected);
    }

    fn identified_by(identity: &str) -> String {
        let lines = SAID.split('\n').map(|line| match line {
            line if line.starts_with("identity=") => format!("identity={identity}"),
            line => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_node_that_can_not_say_which_one_it_is_is_no_machine_without_a_name() {
        for broken in [
            "",
            r#"{"server": 1, "#,
            "cat: /var/lib/fabrik-identity/identity.json: Input/output error",
            "cat: /var/lib/fabrik-identity/identity.json: Permission denied",
        ] {
            let said = parse(&identified_by(broken)).unwrap_err();
            assert_eq!(said, broken);
        }
    }

    #[test]
    fn a_node_says_which_one_it_is() {
        let said = identified_by(r#"{"server": 1, "node": "demo-home-desktop"}"#);
        let found = parse(&said.replace("disk=", "k3s=yes\ndisk=")).unwrap();
        let expected = ("demo-home-desktop".to_owned(), ServerId(1));
        assert_eq!(found.node, Some(expected));
        assert!(found.has_k3s);
    }

    #[test]
    fn a_partition_or_nothing_at_all_is_no_disk() {
        assert_eq!(
            parse(&SAID.replacen("\"disk\"", "\"part\"", 1))
                .unwrap()
                .disk,
            None
        );
        let (facts, _) = SAID.split_once("disk=").unwrap();
        let none = format!("{facts}disk=\nlsblk: /dev/x: not a block device\nnone\n");
        assert_eq!(parse(&none).unwrap().disk, None);
    }
}
