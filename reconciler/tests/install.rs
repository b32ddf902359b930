//! `fabrik install`, by the real binary and to a real sshd. Nix, nixos-anywhere and the API server are stand-ins that write down
//! what they were asked.

mod install {
    pub mod api;
    pub mod world;
}

use install::world::World;

const TOKEN_BEGINS: &str = "K10";

#[tokio::test]
async fn a_machine_that_shows_another_host_key_is_told_nothing() {
    let world = World::start("debian").await;
    let (ok, said) = world.install("nas", &["--yes", "nas"]).await;
    assert!(!ok, "{said}");
    for part in [
        "shows another host key",
        &world.fingerprint("host_key"),
        &world.fingerprint("other_key"),
        "nothing was sent",
        "correct `host-key`",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(world.asked_of_machine(), "");
    assert!(
        !world.sshd_log().contains("Accepted"),
        "{}",
        world.sshd_log()
    );
    assert_eq!(
        world.api.written(),
        Vec::<String>::new(),
        "no token was made"
    );
    assert_eq!(world.calls("nixos-anywhere"), "");
}

#[tokio::test]
async fn another_linux_is_wiped_by_nixos_anywhere_and_told_who_it_is_afterwards() {
    let world = World::start("debian").await;
    let (ok, said) = world.install("desktop", &["--yes", "desktop"]).await;
    assert!(ok, "{said}");
    for part in [
        "ALL OF THIS IS WIPED on /dev/disk/by-id/nvme-desktop:",
        "nvme0n1 512.1 GB, SAMSUNG MZVL",
        "nvme0n1p2 511.0 GB, ext4, mounted at /",
        "demo-home-desktop has joined, and is Ready",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let port = world.port();
    let expected = format!(
        "--store-paths /nix/store/built-disk /nix/store/built-toplevel --copy-host-keys --ssh-port {port} -i {} \
         --target-host root@127.0.0.1",
        world.path("mine").display()
    );
    assert_eq!(world.calls("nixos-anywhere").trim(), expected);
    // What it asks of ssh to trust anybody comes too late.
    assert_eq!(world.calls("trusts").trim(), "stricthostkeychecking true");
    let built = world.calls("nix");
    for what in [
        "fabrik.machines.desktop.disk",
        "nixosConfigurations.home.config.system.build.toplevel",
    ] {
        let line = format!(
            "git+file://{}?rev={}#{what}",
            world.repository().display().to_string().replace('#', "%23"),
            world.commit
        );
        assert!(built.contains(&line), "{line}: {built}");
    }

    let file: serde_json::Value = serde_json::from_str(&world.told()).unwrap();
    assert_eq!(file["node-ip"], "10.0.9.50");
    let user_data = &file["user-data"];
    assert_eq!(user_data["node-name"], "demo-home-desktop");
    assert_eq!(user_data["labels"]["place"], "home");
    let token = user_data["token"].as_str().unwrap();
    assert!(
        token.starts_with(TOKEN_BEGINS),
        "of the authority that the leader names"
    );
    let secret = token.rsplit('.').next().unwrap();
    for seen in [
        world.asked_of_machine(),
        world.calls("nixos-anywhere"),
        built,
        said,
    ] {
        assert!(!seen.contains(secret), "the token was seen: {seen}");
    }
}

#[tokio::test]
async fn a_machine_behind_a_router_is_reached_by_its_port_in_the_installer_too() {
    let world = World::start("debian").await;
    world.is_forwarded_to(2022);
    let (ok, said) = world.install("desktop", &["--yes", "desktop"]).await;
    let astray = format!(
        "is reached at port {}, which leads to its port 2022",
        world.port()
    );
    assert!(!ok && said.contains(&astray), "{said}");
    assert_eq!(world.calls("nixos-anywhere") + &world.calls("nix"), "");

    world.is_forwarded_to(22);
    let (ok, said) = world.install("desktop", &["--yes", "desktop"]).await;
    assert!(ok, "{said}");
    let ports = format!("--ssh-port {0} --post-kexec-ssh-port {0} ", world.port());
    assert!(world.calls("nixos-anywhere").contains(&ports), "{said}");
}

#[tokio::test]
async fn a_machine_with_nixos_switches_and_no_disk_is_wiped() {
    let world = World::start("nixos").await;
    let (ok, said) = world.install("desktop", &["--yes", "desktop"]).await;
    assert!(ok, "{said}");
    assert!(said.contains("no disk is wiped"), "{said}");
    assert_eq!(world.calls("nixos-anywhere"), "");
    let nix = world.calls("nix");
    assert!(
        nix.contains(
            "copy --substitute-on-destination --no-check-sigs --to ssh-ng://root@127.0.0.1"
        ),
        "{nix}"
    );
    let keys = world.calls("keys");
    assert!(keys.contains("/mine"), "{keys}");
    let asked = world.asked_of_machine();
    assert!(
        asked.contains("/nix/store/built-toplevel/bin/switch-to-configuration switch"),
        "{asked}"
    );
}

#[tokio::test]
async fn nothing_is_done_to_a_machine_until_its_name_was_said() {
    let world = World::start("debian").await;
    for (more, why) in [
        (vec![], "Agree beforehand by --yes desktop"),
        (vec!["--yes", "nas"], "`nas` is not desktop"),
    ] {
        let (ok, said) = world.install("desktop", &more).await;
        assert!(
            !ok && said.contains(why) && said.contains("nothing was changed"),
            "{said}"
        );
    }
    assert_eq!(world.calls("nixos-anywhere"), "");
    assert_eq!(world.api.written(), Vec::<String>::new());
}

#[tokio::test]
async fn a_machine_whose_new_firewall_would_shut_this_laptop_out_is_left_as_it_is() {
    for os in ["debian", "nixos"] {
        let world = World::start(os).await;
        world.comes_from("192.168.1.7");
        let (ok, said) = world.install("desktop", &["--yes", "desktop"]).await;
        assert!(!ok, "{said}");
        for part in [
            "it sees this laptop as 192.168.1.7, which is in no range of [firewall] `ssh-from`",
            "Put \"192.168.1.7/32\" there",
            "Nothing was changed on it",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(world.calls("nixos-anywhere") + &world.calls("nix"), "");
    }
}

#[tokio::test]
async fn a_machine_that_was_installed_is_only_told_anew_who_it_is() {
    let world = World::start("nixos").await;
    world.is_already("demo-home-desktop");
    let (ok, said) = world.install("desktop", &["--yes", "desktop"]).await;
    assert!(ok, "{said}");
    assert_eq!(world.calls("nixos-anywhere") + &world.calls("nix"), "");
    assert!(world.told().contains("demo-home-desktop"));
}

#[tokio::test]
async fn a_server_is_told_a_nonce_and_the_leader_its_hash_and_it_counts_when_it_votes() {
    let world = World::of_servers().await;
    let (ok, said) = world.install("cellar", &["--yes", "cellar"]).await;
    assert!(ok, "{said}");
    for part in [
        "ALL OF THIS IS WIPED on /dev/disk/by-id/nvme-cellar:",
        "waiting until the leader lets demo-servers-cellar in",
        "demo-servers-cellar has joined, and is Ready",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let built = world.calls("nix");
    for what in [
        "fabrik.machines.cellar.disk",
        "nixosConfigurations.servers.config.system.build.toplevel",
    ] {
        assert!(built.contains(what), "{what}: {built}");
    }
    let file: serde_json::Value = serde_json::from_str(&world.told()).unwrap();
    let user_data = &file["user-data"];
    assert_eq!(file["node-ip"], "10.0.9.51");
    assert_eq!(user_data["role"], "server");
    assert_eq!(user_data["node-name"], "demo-servers-cellar");
    assert_eq!(user_data["public-key"], "fabrik-demo-1:AAAA");
    assert_eq!(user_data["join-urls"][0], "https://10.0.1.1:9643");
    assert!(user_data.get("token").is_none(), "{file}");
    let nonce = user_data["nonce"].as_str().unwrap();

    let written = world.api.written();
    let [asked, no_more] = written.as_slice() else {
        panic!("{written:?}");
    };
    let hash = fabrik_core::join::hash(nonce.as_bytes());
    assert!(asked.contains(hash.as_str()), "{asked}");
    assert!(no_more.contains(r#""installing":null"#), "{no_more}");
    for seen in [
        world.asked_of_machine(),
        world.calls("nixos-anywhere"),
        built,
        said,
        written.concat(),
    ] {
        assert!(!seen.contains(nonce), "the nonce was seen: {seen}");
    }

    let (ok, said) = world.install("cellar", &[]).await;
    assert!(ok && said.contains("is a node of the cluster"), "{said}");
}

#[tokio::test]
async fn nothing_is_done_to_a_server_to_be_while_another_one_is_not_well() {
    let world = World::of_servers().await;
    world.api.change(|observed| {
        let nodes = observed.nodes.values_mut();
        nodes.for_each(|node| node.ready = false);
    });
    let (ok, said) = world.install("cellar", &["--yes", "cellar"]).await;
    assert!(!ok, "{said}");
    for part in [
        "node demo-servers-cellar: may not become a server now: server demo-servers-attic is not Ready",
        "Nothing was changed",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(world.asked_of_machine(), "");
    assert_eq!(world.api.written(), Vec::<String>::new());
}

#[tokio::test]
async fn only_the_commit_in_force_is_installed() {
    let world = World::start("debian").await;
    world.commit_once_more();
    let (ok, said) = world.install("desktop", &["--yes", "desktop"]).await;
    assert!(!ok && said.contains("the cluster follows commit"), "{said}");
    assert_eq!(world.asked_of_machine(), "");
}

#[tokio::test]
async fn a_node_whose_identity_can_not_be_read_is_not_wiped() {
    let world = World::start("debian").await;
    world.is_already("demo-home-nas");
    let identity = world.path("identity");
    let whole = std::fs::read(&identity).unwrap();
    std::fs::write(&identity, &whole[..whole.len() / 2]).unwrap();
    let (ok, said) = world.install("desktop", &["--yes", "desktop"]).await;
    assert!(!ok && said.contains("can't say of which"), "{said}");
    assert_eq!(world.calls("nixos-anywhere") + &world.calls("nix"), "");
    assert_eq!(
        world.api.written(),
        Vec::<String>::new(),
        "no token was made"
    );
}
