use super::super::parse;
use crate::spec::{Machine, Spec};

const BASE: &str = r#"
[cluster]
name = "demo"
[kubernetes]
version = "1.36.3+k3s1"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }
[pools.home]
may-be-off = true
"#;
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk";
const OTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

fn machine(name: &str, address: &str, key: &str, more: &str) -> String {
    format!(
        "[pools.home.machines.{name}]\naddress = \"{address}\"\nhost-key = \"{key}\"\n\
         disk = \"/dev/disk/by-id/nvme-{name}\"\n{more}\n"
    )
}

fn read(machines: &[String]) -> Result<Spec, Vec<String>> {
    let text = format!("{BASE}{}", machines.concat());
    parse("cluster.toml", &text).map_err(|faults| {
        let told = faults.iter();
        told.map(|f| format!("{} {}: {}", f.place, f.object, f.problem))
            .collect()
    })
}

#[test]
fn a_machine_is_read_with_what_it_leaves_out() {
    let more = "port = 2222\nuser = \"ada\"\nnode-ip = \"10.0.9.50\"";
    let spec = read(&[
        machine("desktop", "10.0.9.20", KEY, ""),
        machine(
            "nas",
            "nas.example.org",
            &format!("{OTHER_KEY} root@nas"),
            more,
        ),
    ]);
    let spec = spec.unwrap();
    let pool = &spec.pools[&"home".parse().unwrap()];
    assert_eq!((pool.count, pool.is_empty()), (0, false), "none at Hetzner");
    assert_eq!(pool.system.as_deref(), Some("x86_64-linux"));
    let desktop = &pool.machines[&"desktop".parse().unwrap()];
    let expected = Machine {
        address: "10.0.9.20".to_owned(),
        port: 22,
        user: "root".to_owned(),
        host_key: KEY.to_owned(),
        disk: "/dev/disk/by-id/nvme-desktop".to_owned(),
        node_ip: "10.0.9.20".parse().unwrap(),
    };
    assert_eq!(*desktop, expected);
    let nas = &pool.machines[&"nas".parse().unwrap()];
    assert_eq!((nas.port, nas.user.as_str()), (2222, "ada"));
    assert_eq!(nas.host_key, OTHER_KEY, "without the comment");
    assert_eq!(nas.node_ip.to_string(), "10.0.9.50");
}

#[test]
fn no_two_machines_are_one() {
    let twice = read(&[
        machine("desktop", "10.0.9.20", KEY, ""),
        machine("nas", "10.0.9.20", KEY, ""),
    ]);
    let expected = [
        "cluster.toml:16:11 machine nas: has the address of machine desktop",
        "cluster.toml:16:11 machine nas: has the node-ip of machine desktop",
        "cluster.toml:17:12 machine nas: has the host key of machine desktop",
    ];
    assert_eq!(twice.unwrap_err(), expected);
    let other_pool = machine("desktop", "10.0.9.21", OTHER_KEY, "").replace("home", "attic");
    let told = read(&[machine("desktop", "10.0.9.20", KEY, ""), other_pool]).unwrap_err();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("two machines of the name `desktop`"),
        "{told:?}"
    );
}

#[test]
fn a_pool_is_of_one_kind() {
    let text = format!("{BASE}count = 1\nserver-types = [\"cx33\"]\n");
    let text = format!("{text}{}", machine("desktop", "10.0.9.20", KEY, ""));
    let faults = parse("cluster.toml", &text).unwrap_err();
    let told: Vec<String> = faults
        .iter()
        .map(|f| format!("{} {}", f.place, f.problem))
        .collect();
    let expected = [
        "cluster.toml:10:1 `count` is of servers at Hetzner, and this pool has machines of your own",
        "cluster.toml:11:1 `server-types` is of servers at Hetzner, and this pool has machines of your own",
    ];
    assert_eq!(told, expected);
    let none = parse("cluster.toml", &format!("{BASE}machines = {{}}\n")).unwrap_err();
    assert_eq!(none[0].problem, "no machine is named");
}

#[test]
fn all_that_is_wrong_with_a_machine_is_told_at_once() {
    let wrong = machine(
        "desktop",
        "-oProxyCommand=x",
        "ssh-rsa AAAA",
        "user = \"Ada\"",
    )
    .replace("/dev/disk/by-id/nvme-desktop", "/dev/../etc");
    let told = read(&[wrong]).unwrap_err().join("\n");
    for part in [
        ":11:11 machine desktop: `-oProxyCommand=x` is neither an IP address nor a DNS name",
        ":11:11 machine desktop: `-oProxyCommand=x` is no IPv4 address that nodes could know it by",
        ":12:12 machine desktop: the host key is cut off or mistyped",
        ":13:8 machine desktop: `/dev/../etc` is no disk",
        ":14:8 machine desktop: `Ada` is no name of a user",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn an_address_of_somebody_else_s_is_no_machine_s() {
    for (ip, whose) in [
        ("10.0.1.50", "from which Hetzner gives its servers theirs"),
        ("10.42.0.9", "which are pods'"),
        ("10.43.0.9", "which are services'"),
        ("192.168.1.20", "is not in 10.0.0.0/16, as nodes have to be"),
    ] {
        let told = read(&[machine("desktop", ip, KEY, "")]).unwrap_err();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(whose), "{told:?}");
    }
    read(&[machine("desktop", "10.0.9.51", KEY, "")]).unwrap();
}

#[test]
fn a_node_s_name_is_one_kubernetes_takes() {
    let name = "x".repeat(30);
    let long = machine(&name, "10.0.9.20", KEY, "").replace("home", &"h".repeat(30));
    let told = read(&[long]).unwrap_err().join("\n");
    assert!(told.contains("longer than 63 characters"), "{told}");
}
