//! `fabrik seed` by the real binary, against the emulator, with a real sshd in the rescue system and on the first server. What
//! stands in on the first server is named in `seed/first-server.sh`.

#[path = "seed/afterwards.rs"]
mod afterwards;
#[path = "seed/building.rs"]
mod building;
#[path = "seed/machines.rs"]
mod machines;
#[path = "seed/own.rs"]
mod own;
#[path = "seed/page.rs"]
mod page;
#[path = "init/place.rs"]
mod place;
#[path = "seed/world.rs"]
mod world;
#[path = "seed/wrong.rs"]
mod wrong;

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use world::{World, left};

/// Of Nix' tarball for x86_64, as `src/seed/build_there.rs` knows it.
const NIX_SHA256: &str = "eafe5042404e818505e28c5ca3d0885f3ec45c31f955489a25bb38258f87560e";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_becomes_a_snapshot_and_only_the_last_two_are_kept() {
    let world = World::start().await;
    let disk = world.disk("disk.img", 3_000_000);
    let images = &["--image-only", "--image", "disk.img"];
    let seeded = world.seed(images).await;
    assert!(seeded.is_ok(), "{seeded}");
    assert!(seeded.out.contains("read it back, the same"), "{seeded}");
    assert_eq!(world.written(), disk);
    let state = world.state().await;
    let images_there = state["images"].as_array().unwrap();
    assert_eq!(images_there.len(), 1);
    let labels = &images_there[0]["labels"];
    assert_eq!(labels["fabrik.dev/image"], "servers");
    assert_eq!(labels["fabrik.dev/digest"], world::sha256(&disk)[..32]);
    assert_eq!(labels["fabrik.dev/name"], "demo");
    assert_eq!(labels["fabrik.dev/k3s"], "1.36");
    assert_eq!(left(&state), "1 images");

    // Done again it makes nothing; another disk is another snapshot, compressed or not.
    assert!(world.seed(images).await.is_ok());
    assert_eq!(world.events("snapshot").await, 1);
    for n in [2_u8, 3] {
        let disk = world.disk("disk.img", 1_000_000 + usize::from(n));
        world.compress("disk.img");
        let seeded = world
            .seed(&["--image-only", "--image", "disk.img.zst"])
            .await;
        assert!(seeded.is_ok(), "{seeded}");
        assert_eq!(world.written(), disk);
    }
    assert_eq!(left(&world.state().await), "2 images");
    assert_eq!(world.events("snapshot").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nix_builds_the_images_that_are_not_named() {
    let world = World::start().await.with_flake().with_nix();
    let seeded = world.seed(&["--image-only"]).await;
    assert!(seeded.is_ok(), "{seeded}");
    for told in ["built the image of servers", "built the image of workers"] {
        assert!(seeded.out.contains(told), "{told}: {seeded}");
    }
    assert!(seeded.err.contains("-image.drv"), "{seeded}");
    assert_eq!(world.written(), b"the disk of workers\n");
    assert_eq!(left(&world.state().await), "2 images");
    assert!(world.seed(&["--image-only"]).await.is_ok());
    assert_eq!(world.events("snapshot").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_temporary_server_builds_what_the_laptop_can_not() {
    let world = World::start().await.with_flake();
    world.offer_nix("another digest");
    let images = &["--image-only"];
    let seeded = world.seed(images).await;
    assert!(!seeded.is_ok(), "{seeded}");
    assert!(seeded.out.contains("there is no Nix here"), "{seeded}");
    assert!(seeded.err.contains("nix.tar.xz: FAILED"), "{seeded}");
    assert_eq!(world.events("snapshot").await, 0);

    world.offer_nix(NIX_SHA256);
    let seeded = world.seed(images).await;
    assert!(seeded.is_ok(), "{seeded}");
    for told in [
        "it has Nix 2.34.7",
        "built the system of servers",
        "installed it on its disk",
        "read it back, whole",
    ] {
        assert!(seeded.out.contains(told), "{told}: {seeded}");
    }
    assert!(seeded.err.contains("-fabrik-install.drv"), "{seeded}");
    assert_eq!(left(&world.state().await), "2 images");
    world.disk_has_a_system_alone();
    assert!(world.seed(images).await.is_ok());
    assert_eq!(world.events("snapshot").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_on_the_temporary_server_goes_on_after_each_kill() {
    let world = World::start().await.with_flake();
    world.offer_nix(NIX_SHA256);
    let there = &["--image-only", "--build-on-server"];
    let mut killed_after = BTreeSet::new();
    while !world.seed_and_kill(there, &mut killed_after).await.is_ok() {}
    assert!(killed_after.len() >= 15, "{killed_after:?}");
    assert_eq!(left(&world.state().await), "2 images");
    world.disk_has_a_system_alone();
    assert_eq!(world.events("snapshot").await, 2);
    assert_eq!(world.events("created").await, 1);
    // Nothing was fetched or partitioned twice for one image.
    let told = |file| {
        fs::read_to_string(world.machine_file(file))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!((told("downloads"), told("partitioned")), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hetzner_does_not_end_with_is_not_waited_for_without_end() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.settings(json!({"action_duration_ms": 600_000})).await;
    let images = [
        "--image-only",
        "--image",
        "disk.img",
        "--hetzner-limit",
        "1s",
    ];
    let seeded = world.seed(&images).await;
    assert!(!seeded.is_ok(), "{seeded}");
    assert!(
        seeded.err.contains("Hetzner has been at work with server"),
        "{seeded}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_written_as_it_was_sent_becomes_no_snapshot() {
    let world = World::start().await;
    world.disk("disk.img", 1_000_000);
    world.flag("corrupt", true);
    let images = &["--image-only", "--image", "disk.img"];
    let seeded = world.seed(images).await;
    assert!(!seeded.is_ok(), "{seeded}");
    assert!(
        seeded.err.contains("does not hold what was sent"),
        "{seeded}"
    );
    assert_eq!(world.events("snapshot").await, 0);
    world.flag("corrupt", false);
    assert!(world.seed(images).await.is_ok());
    assert_eq!(left(&world.state().await), "1 images");
    assert_eq!(world.events("created").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_system_that_is_not_the_temporary_server_s_is_written_nothing() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.flag("impostor", true);
    let images = &["--image-only", "--image", "disk.img"];
    let seeded = world.seed(images).await;
    assert!(!seeded.is_ok(), "{seeded}");
    assert!(
        seeded.err.contains("does not prove that its host key"),
        "{seeded}"
    );
    assert!(!world.machine_file("sda").exists());
    let trusted = [images.as_slice(), &["--trust-rescue"]].concat();
    assert!(world.seed(&trusted).await.is_ok());
    assert_eq!(world.events("created").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_stops_it_by_its_name_and_the_same_command_goes_on() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.settings(json!({"snapshot_limit": 0})).await;
    let images = &["--image-only", "--image", "disk.img"];
    let seeded = world.seed(images).await;
    assert!(!seeded.is_ok(), "{seeded}");
    assert!(seeded.err.contains("snapshot_limit"), "{seeded}");
    world.settings(json!({"snapshot_limit": 5})).await;
    assert!(world.seed(images).await.is_ok());
    assert_eq!(left(&world.state().await), "1 images");
    assert_eq!(world.events("created").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_was_named_wrongly_is_named_anew_while_nothing_is_made() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    let whole = &["--image", "disk.img", "--yes", "demo"];
    let waits = world.seed_of("mistyped.git", whole).await;
    assert!(waits.out.contains("wrong  deploy key"), "{waits}");
    let waits = world.seed(whole).await;
    assert_eq!(waits.code, Some(3), "{waits}");
    let elsewhere = world
        .seed_of("mistyped.git", &["--undo", "--yes", "demo"])
        .await;
    assert!(
        elsewhere
            .err
            .contains("is about a cluster of the same name"),
        "{elsewhere}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_age_key_is_told_so_and_not_to_replace_a_token() {
    let world = World::start().await;
    let home = tempfile::tempdir().unwrap();
    let seeded = world.seed_from_home(home.path()).await;
    assert!(!seeded.is_ok(), "{seeded}");
    let told = "wrong  age key     you have no age key: name one by --age-key-file";
    assert!(seeded.out.contains(told), "{seeded}");
    assert_eq!(left(&world.state().await), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_pushed_repository_to_a_first_server_that_has_all_it_needs() {
    let world = World::start().await;
    world.disk("disk.img", 2_000_000);
    let whole = &["--image", "disk.img", "--yes", "demo"];

    let waits = world.seed(whole).await;
    assert_eq!(waits.code, Some(3), "{waits}");
    assert!(
        waits.out.contains("Let this key read the repository"),
        "{waits}"
    );
    assert!(waits.out.contains("ssh-ed25519 AAAA"), "{waits}");
    assert_eq!(world.told(&waits.out), page::block("first"));
    assert_eq!(left(&world.state().await), "");
    world.authorize_git();

    let seeded = world.seed(whole).await;
    assert!(seeded.is_ok(), "{seeded}");
    for told in [
        "3 × cx33 in fsn1, servers",
        "in all, EUR",
        "met the first server",
        "handed the cluster over",
        "1 of 3 servers",
        "demo is up.",
    ] {
        assert!(seeded.out.contains(told), "{told}:\n{seeded}");
    }
    assert_eq!(world.told(&seeded.out), page::block("second"));
    world.is_whole().await;

    let again = world.seed(whole).await;
    assert!(
        again.is_ok() && again.out.contains("demo was seeded before"),
        "{again}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_each_step_it_comes_to_the_same_end() {
    let world = World::start().await;
    world.disk("disk.img", 2_000_000);
    world.authorize_git();
    let whole = &["--image", "disk.img", "--yes", "demo"];
    world.flag("slow", true);
    let cut_off = world.seed_until(whole, "writing").await;
    assert_eq!(cut_off.code, None, "{cut_off}");
    world.flag("slow", false);
    let mut killed_after = BTreeSet::new();
    while !world.seed_and_kill(whole, &mut killed_after).await.is_ok() {}
    assert!(killed_after.len() >= 15, "{killed_after:?}");
    world.is_whole().await;
    assert_eq!(world.events("snapshot").await, 1);
    assert_eq!(world.events("created").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_is_undone_half_way_and_whole() {
    let world = World::start().await;
    world.disk("disk.img", 2_000_000);
    world.authorize_git();
    let whole = &["--image", "disk.img", "--yes", "demo"];
    world.flag("slow", true);
    world.seed_until(whole, "writing").await;
    world.flag("slow", false);
    let made = left(&world.state().await);
    assert!(made.contains("1 servers"), "{made}");
    let other = world.seed(&["--undo", "--yes", "other"]).await;
    assert!(!other.is_ok(), "{other}");
    assert_eq!(left(&world.state().await), made);

    // A copy of the repository, whose cluster has the same name.
    let copy = world
        .seed_of("copy.git", &["--undo", "--yes", "demo"])
        .await;
    assert!(
        copy.err.contains("is about a cluster of the same name"),
        "{copy}"
    );
    assert_eq!(left(&world.state().await), made);
    assert!(world.state_dir().exists());

    let undo = async || {
        let undone = world.seed(&["--undo", "--yes", "demo"]).await;
        assert!(undone.is_ok(), "{undone}");
        assert_eq!(left(&world.state().await), "", "{undone}");
        assert!(!world.state_dir().exists());
    };
    undo().await;
    // Another key than before, which a person adds again.
    world.authorize_git();
    let seeded = world.seed(whole).await;
    assert!(seeded.is_ok(), "{seeded}");
    undo().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_when_a_seed_is_undone_is_known_afterwards() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    let images = &["--image-only", "--image", "disk.img"];
    assert!(world.seed(images).await.is_ok());
    let snapshot = world.state().await["images"][0]["id"].as_u64().unwrap();
    let protect = async |on: bool| {
        let path = format!("images/{snapshot}/actions/change_protection");
        world.post(&path, json!({"delete": on})).await;
    };
    let id = || {
        let record = fs::read(world.state_dir().join("seed.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["cluster-id"].as_str().unwrap().to_owned()
    };
    let (undo, known) = (&["--undo", "--yes", "demo"], id());
    protect(true).await;
    let undone = world.seed(undo).await;
    assert!(undone.is_ok(), "{undone}");
    assert!(
        undone
            .out
            .contains(&format!("the id of what stays, {known}")),
        "{undone}"
    );
    assert_eq!(left(&world.state().await), "1 images");
    assert_eq!(id(), known);
    assert!(!world.state_dir().join("temporary.key").exists());

    protect(false).await;
    assert!(world.seed(undo).await.is_ok());
    assert_eq!(left(&world.state().await), "");
    assert!(!world.state_dir().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_project_s_token_makes_nothing_forgotten() {
    let (world, other) = (World::start().await, World::start().await);
    world.disk("disk.img", 100_000);
    let images = &["--image-only", "--image", "disk.img"];
    assert!(world.seed(images).await.is_ok());
    let record = world.state_dir().join("seed.json");
    let known = fs::read(&record).unwrap();
    let undo = &["--undo", "--yes", "demo"];
    let id = serde_json::from_slice::<Value>(&known).unwrap()["cluster-id"].clone();
    let destroy = &["--cluster-id", id.as_str().unwrap()];
    for undone in [
        world.seed_in_project_of(&other, undo).await,
        world.destroy_in_project_of(&other, destroy).await,
    ] {
        let told = undone.err.contains("how another project's token looks");
        assert!(!undone.is_ok() && told, "{undone}");
    }
    assert_eq!(fs::read(&record).unwrap(), known);
    assert_eq!(left(&world.state().await), "1 images");
    assert!(world.seed(undo).await.is_ok());
    assert_eq!(left(&world.state().await), "");
    assert!(!world.state_dir().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_agree_has_made_nothing_and_who_is_stopped_is_told_what_stays() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.authorize_git();
    let refused = world.seed(&["--image", "disk.img", "--yes", "other"]).await;
    assert!(refused.err.contains("nothing was made"), "{refused}");
    assert_eq!(left(&world.state().await), "");
    world.settings(json!({"snapshot_limit": 0})).await;
    let stopped = world.seed(&["--image", "disk.img", "--yes", "demo"]).await;
    assert!(stopped.err.contains("snapshot_limit"), "{stopped}");
    assert!(stopped.out.contains("fabrik seed --undo"), "{stopped}");
    assert!(left(&world.state().await).contains("1 servers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_another_host_key_is_told_nothing() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.authorize_git();
    world.flag("foreign-host-key", true);
    let whole = &["--image", "disk.img", "--yes", "demo", "--boot-limit", "3s"];
    let seeded = world.seed(whole).await;
    assert!(!seeded.is_ok(), "{seeded}");
    assert!(seeded.err.contains("ANOTHER HOST KEY"), "{seeded}");
    assert!(!world.machine_file("bundle.json").exists());
    let asked = fs::read_to_string(world.machine_file("asked")).unwrap_or_default();
    assert!(!asked.contains("identity"), "{asked}");
}
