//! What comes after a seed, or after half of one: an end, another laptop, another image.

use std::fs;

use serde_json::Value;

use super::world::{World, left, sha256};

const WHOLE: [&str; 4] = ["--image", "disk.img", "--yes", "demo"];
const OTHER_IMAGE: [&str; 3] = ["--image-only", "--image", "other.img"];

/// What new servers boot.
fn newest(state: &Value) -> &Value {
    let images = state["images"].as_array().unwrap();
    images
        .iter()
        .max_by_key(|image| image["id"].as_u64())
        .unwrap()
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
