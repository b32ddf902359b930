//! Another build of fabrik comes by a push, and nobody repeats `fabrik found`.

use fabrik::cluster::founding::keep_up;
use fabrik::config::Config;

use super::world::World;

const MARK: &str = "fabrik.dev/manifests";

pub async fn is_of_what_an_older_fabrik_founded_and_no_newer_one(world: &World) {
    let founded = world.found("one", "demo", "server-1").await.unwrap();
    let config = Config::load(&founded.config).unwrap();
    let kubectl = |arguments: &[&str]| world.bed.kubectl(arguments).unwrap();
    let mark = |value: &str| {
        let value = format!("{MARK}{value}");
        kubectl(&[
            "annotate",
            "--overwrite",
            "namespace",
            "fabrik-system",
            &value,
        ]);
    };
    let role_is_there = || {
        let role = [
            "get",
            "clusterrole",
            "fabrik-node",
            "--ignore-not-found",
            "-o",
            "name",
        ];
        !kubectl(&role).is_empty()
    };

    mark("-");
    kubectl(&["delete", "clusterrole", "fabrik-node"]);
    keep_up(&config).await;
    assert!(role_is_there());
    let marks = [
        "get",
        "namespace",
        "fabrik-system",
        "-o",
        "jsonpath={.metadata.annotations}",
    ];
    assert!(kubectl(&marks).contains(MARK));

    kubectl(&["delete", "clusterrole", "fabrik-node"]);
    keep_up(&config).await;
    assert!(
        !role_is_there(),
        "it is looked at again with another version only"
    );

    mark("=1000000");
    keep_up(&config).await;
    world.found("one", "demo", "server-1").await.unwrap();
    assert!(!role_is_there(), "a newer fabrik took it away");
}
