//! What is wrong is told before anything is made.

use std::fs;

use serde_json::json;

use super::place;
use super::world::{World, left};

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_is_told_at_once_and_nothing_is_made() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.authorize_git();
    world
        .post(
            "networks",
            json!({"name": "demo", "ip_range": "10.0.0.0/16"}),
        )
        .await;
    world.edit("ssh-from = [\"127.0.0.0/8\"]", "ssh-from = []");
    world.commit("Close the door");
    world
        .settings(json!({"tokens": [], "read_only_tokens": [place::TOKEN]}))
        .await;
    world
        .settings(json!({"out_of_stock": {"cx33": ["fsn1", "nbg1", "hel1"]}}))
        .await;
    let seeded = world.seed(&["--image", "disk.img", "--yes", "demo"]).await;
    assert!(!seeded.is_ok(), "{seeded}");
    for wrong in [
        "wrong  repository",
        "wrong  firewall    [firewall] ssh-from is empty",
        "wrong  token       Hetzner does not let it write",
        "wrong  names       others have names that demo needs: network `demo`",
        "wrong  stock       servers: Hetzner has no cx33 to give in fsn1, nbg1, hel1 now",
        "ok     secrets     2 open, for you and for the cluster",
        "ok     age key",
    ] {
        assert!(seeded.out.contains(wrong), "{wrong}:\n{seeded}");
    }
    assert_eq!(left(&world.state().await), "1 networks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_hetzner_does_not_know_is_told_once() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.settings(json!({"tokens": ["another"]})).await;
    let seeded = world.seed(&["--image", "disk.img", "--yes", "demo"]).await;
    assert!(!seeded.is_ok(), "{seeded}");
    let of_hetzner = ["token", "names", "network", "stock"];
    let lines = seeded.out.lines().filter(|line| {
        let about = line.split_whitespace().nth(1);
        about.is_some_and(|about| of_hetzner.contains(&about))
    });
    let lines: Vec<_> = lines.collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("wrong  token       Hetzner refuses it ("),
        "{seeded}"
    );
    assert!(lines[0].ends_with("(`sops edit`), and push"), "{seeded}");
    assert_eq!(left(&world.state().await), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_example_in_the_firewall_is_refused_and_who_lets_nobody_in_is_told() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.edit("alice = ", "# alice = ");
    let told = async |line: &str| {
        world.commit("Open the door");
        world.push();
        let seeded = world.seed(&["--image", "disk.img"]).await;
        assert!(!seeded.is_ok() && seeded.out.contains(line), "{seeded}");
    };
    let note = "\n                   note: [ssh-keys] is empty, so no node will let anybody in";
    told(&format!(
        "ok     firewall    SSH is open to 127.0.0.0/8{note}"
    ))
    .await;
    world.edit("\napi-from", "\n# api-from");
    let note = "\n                   note: [firewall] api-from is empty";
    told(note).await;
    world.edit(
        "ssh-from = [\"127.0.0.0/8\"]",
        "ssh-from = [\"198.51.100.7/32\"]",
    );
    told("wrong  firewall    [firewall] ssh-from: 198.51.100.7/32 stands for an example").await;
    assert_eq!(left(&world.state().await), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_first_server_would_not_let_in_is_told_before_there_is_one() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.authorize_git();
    world.edit(
        "ssh-from = [\"127.0.0.0/8\"]",
        "ssh-from = [\"9.9.9.0/24\"]",
    );
    world.commit("Be somewhere else");
    world.push();
    let seeded = world.seed(&["--image", "disk.img", "--yes", "demo"]).await;
    let told = "the temporary server sees this laptop as 127.0.0.1, which is in no range of [firewall] ssh-from";
    assert!(!seeded.is_ok() && seeded.err.contains(told), "{seeded}");
    assert_eq!(world.events("snapshot").await, 0);

    // An image alone is made from anywhere.
    let images = world.seed(&["--image-only", "--image", "disk.img"]).await;
    assert!(images.is_ok(), "{images}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_locked_is_told_before_anything_is_made() {
    let world = World::start().await;
    world.disk("disk.img", 100_000);
    world.authorize_git();
    let lock = world.repository() + "/flake.lock";
    let told = async |why: &str| {
        world.commit("Lock nothing");
        world.push();
        let seeded = world.seed(&["--image", "disk.img", "--yes", "demo"]).await;
        assert!(!seeded.is_ok() && seeded.out.contains(why), "{seeded}");
        assert_eq!(left(&world.state().await), "");
    };
    fs::write(&lock, "{}").unwrap();
    told("flake.lock is no lock file of a flake").await;
    fs::remove_file(&lock).unwrap();
    told("flake.lock is not there, and nobody builds").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_that_is_told_once() {
    let mut world = World::start().await;
    world.disk("disk.img", 100_000);
    world.authorize_git();
    world.lose_hetzner();
    let seeded = world.seed(&["--image", "disk.img", "--yes", "demo"]).await;
    assert!(!seeded.is_ok(), "{seeded}");
    let wrong = seeded.out.lines().filter(|line| line.starts_with("wrong"));
    let wrong: Vec<_> = wrong.collect();
    assert!(
        wrong.len() == 1 && wrong[0].starts_with("wrong  hetzner     it can't be reached"),
        "{seeded}"
    );
}
