//! What comes after a seed, or after half of one: an end, another laptop, another image.

use std::fs;

use serde_json::Value;

use super::world::{World, left, sha256};

const WHOLE: [&str; 4] = ["--image", "disk.img", "--yes", "demo"];
const OTHER_IMAGE: [&str; 3] = ["--image-only", "--image", "other.img"];

async fn seeded() -> World {
    let world = World::start().await;
    world.disk("disk.img", 200_000);
    world.disk("other.img", 100_000);
    world.authorize_git();
    let seeded = world.seed(&WHOLE).await;
    assert!(seeded.is_ok(), "{seeded}");
    world
}

/// Machines that come now have nothing of those that were there.
fn forget_machines(world: &World) {
    for file in [
        "own",
        "own.pub",
        "use-own",
        "authorized-first",
        "bundle.json",
    ] {
        fs::remove_file(world.machine_file(file)).unwrap();
    }
}

/// What new servers boot.
fn newest(state: &Value) -> &Value {
    let images = state["images"].as_array().unwrap();
    images
        .iter()
        .max_by_key(|image| image["id"].as_u64())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_destroyed_is_seeded_again_and_not_said_to_live() {
    let mut world = seeded().await;
    let destroyed = world.destroy(&[]).await;
    assert!(destroyed.is_ok(), "{destroyed}");
    assert_eq!(left(&world.state().await), "1 images");
    let seed_again = async |world: &World| {
        forget_machines(world);
        world.authorize_git();
        let again = world.seed(&WHOLE).await;
        assert!(
            again.is_ok() && again.out.contains("demo is up."),
            "{again}"
        );
        world.is_whole().await;
    };
    seed_again(&world).await;

    world.at_laptop("other-state");
    assert!(world.destroy(&[]).await.is_ok());
    world.at_laptop("state");
    let told = world.seed(&WHOLE).await;
    assert!(!told.is_ok(), "{told}");
    assert!(told.err.contains("`fabrik seed --undo`"), "{told}");
    let undone = world.seed(&["--undo", "--yes", "demo"]).await;
    assert!(undone.is_ok(), "{undone}");
    seed_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_laptop_renews_the_images_of_a_cluster_that_it_has_not_seeded() {
    let mut world = seeded().await;
    world.at_laptop("other-state");
    let seed = world.seed(&WHOLE).await;
    assert!(
        seed.out.contains("it was seeded from another machine"),
        "{seed}"
    );
    assert!(seed.out.contains("`fabrik seed --image-only`"), "{seed}");

    let renewed = world.seed(&OTHER_IMAGE).await;
    assert!(renewed.is_ok(), "{renewed}");
    let state = world.state().await;
    assert!(
        left(&state).starts_with("1 servers, 2 images, 1 ssh_keys"),
        "{state}"
    );
    let cluster = &state["servers"][0]["labels"]["fabrik.dev/cluster"];
    assert_eq!(&newest(&state)["labels"]["fabrik.dev/cluster"], cluster);
    assert!(!world.state_dir().join("temporary.key").exists());

    let seed = world.seed(&["--yes", "demo"]).await;
    assert!(seed.is_ok(), "{seed}");
    assert!(
        seed.out.contains("demo was seeded from another machine"),
        "{seed}"
    );
    assert_eq!(world.events("created").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_a_cluster_is_not_to_have_is_not_passed_over_in_silence() {
    let world = seeded().await;
    let told = world.seed(&["--image", "other.img", "--yes", "demo"]).await;
    assert!(!told.is_ok(), "{told}");
    assert!(
        told.err.contains("`fabrik seed --image-only --image "),
        "{told}"
    );
    assert_eq!(world.events("snapshot").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_were_cut_off_leave_the_next_seed_nothing_false_to_say() {
    let world = seeded().await;
    world.flag("slow", true);
    world.seed_until(&OTHER_IMAGE, "writing").await;
    world.flag("slow", false);
    assert!(!world.state_dir().join("deploy.key").exists());
    let seed = world.seed(&WHOLE).await;
    assert!(seed.is_ok(), "{seed}");
    assert!(seed.out.contains("demo was seeded before"), "{seed}");
    world.is_whole().await;
    assert!(!world.state_dir().join("temporary.key").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_written_half_becomes_no_snapshot_of_what_it_was_before() {
    let world = World::start().await;
    let disk = world.disk("disk.img", 200_000);
    world.disk("other.img", 100_000);
    let image = ["--image-only", "--image", "disk.img"];
    let is_off = |words: &str| words.starts_with("powered off");
    let cut_off = world.seed_until_told(&image, is_off).await;
    assert_eq!(cut_off.code, None, "{cut_off}");
    world.flag("slow", true);
    world.seed_until(&OTHER_IMAGE, "writing").await;
    world.flag("slow", false);
    fs::write(world.machine_file("sda"), "half of it").unwrap();

    let seeded = world.seed(&image).await;
    assert!(seeded.is_ok(), "{seeded}");
    assert_eq!(world.written(), disk);
    assert_eq!(left(&world.state().await), "1 images");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_server_that_is_gone_is_made_anew_of_the_image_that_is_named() {
    let world = World::start().await;
    world.disk("disk.img", 200_000);
    let other = world.disk("other.img", 100_000);
    world.authorize_git();
    let is_met = |words: &str| words.starts_with("met the first server");
    let cut_off = world.seed_until_told(&WHOLE, is_met).await;
    assert_eq!(cut_off.code, None, "{cut_off}");
    let state = world.state().await;
    let first = state["servers"][0]["id"].as_u64().unwrap();
    world.delete(&format!("servers/{first}")).await;

    let seeded = world.seed(&["--image", "other.img", "--yes", "demo"]).await;
    assert!(seeded.is_ok(), "{seeded}");
    let state = world.state().await;
    let image = newest(&state);
    assert_eq!(image["labels"]["fabrik.dev/digest"], sha256(&other)[..32]);
    assert_eq!(state["servers"][0]["image"]["id"], image["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_interrupts_a_seed_is_told_what_is_left_and_what_removes_it() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.authorize_git();
    let step = "made a temporary server for the image";
    let ran = world.seed_interrupted_after(&WHOLE, step).await;
    assert_eq!(ran.code, Some(130), "{ran}");
    assert!(ran.err.contains("`fabrik seed --undo` removes it"), "{ran}");
    assert!(world.seed(&["--undo", "--yes", "demo"]).await.is_ok());
    assert_eq!(left(&world.state().await), "");
}
