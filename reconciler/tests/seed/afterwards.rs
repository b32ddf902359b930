//! What comes after a seed, or after half of one: an end, another laptop, another image.

use std::fs;

use super::world::{World, left};

const OTHER_IMAGE: [&str; 3] = ["--image-only", "--image", "other.img"];

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
