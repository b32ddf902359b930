//! Founding on a real API server, and what its identities may and may not do afterwards.

mod founding {
    pub mod access;
    pub mod agents;
    pub mod drain;
    pub mod kubeconfig;
    pub mod policies;
    pub mod renewal;
    pub mod ssh;
    pub mod world;
}

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fabrik::cluster::credentials::ensure_tokens;
use fabrik::cluster::resources::FabrikCluster;
use fabrik::cluster::{Clients, ClusterError, FoundError, LedgerStore};
use fabrik::config::Config;
use fabrik::secrets::founding_keys;
use kube::api::{Api, Patch, PatchParams};

use founding::world::World;

#[tokio::test]
async fn a_cluster_is_founded_once_and_its_servers_keep_what_they_have() {
    let world = World::start().await;
    Box::pin(founders_agree_and_founding_again_changes_nothing(&world)).await;
    Box::pin(whose_age_key_opens_nothing_is_refused(&world)).await;
    Box::pin(tokens_are_made_by_the_admins_kubeconfig_and_no_other(
        &world,
    ))
    .await;
    Box::pin(the_configuration_stays_until_a_flag_says_otherwise(&world)).await;
    Box::pin(founding::renewal::is_of_what_an_older_fabrik_founded_and_no_newer_one(&world)).await;
    world.end().await;
}

#[tokio::test]
async fn who_was_founded_may_do_its_work_and_no_more() {
    let world = World::start().await;
    Box::pin(the_leader_sees_what_is_on_a_node_and_empties_it(&world)).await;
    Box::pin(each_identity_may_do_its_work_and_no_more(&world)).await;
    Box::pin(a_person_gets_in_by_certificate_and_by_ssh(&world)).await;
    world.end().await;
}

async fn founders_agree_and_founding_again_changes_nothing(world: &World) {
    world.share_age_key("one", "two");
    let (one, two) = tokio::join!(
        world.found("one", "demo", "server-1"),
        world.found("two", "demo", "server-2")
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.cluster_id, two.cluster_id);
    let clients = Clients::connect(&Config::load(&two.config).unwrap())
        .await
        .unwrap();
    let (ledger, _) = LedgerStore::new(clients.leader_once).read().await.unwrap();
    assert_eq!(ledger.cluster, one.cluster_id);

    let files = |dir: &str| {
        let entries = std::fs::read_dir(world.path(dir)).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = files("one");
    assert_eq!(world.found("one", "demo", "server-1").await.unwrap(), one);
    assert_eq!(files("one"), before);
    for (path, _) in before {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others can read {}", path.display());
    }

    let error = world.found("three", "other", "server-3").await.unwrap_err();
    assert!(matches!(error, FoundError::OtherName { .. }), "{error}");
    // What resources at Hetzner bear is another cluster's.
    let known = ["--cluster-id", "zzzzzzzz01234567"];
    let founded = world.found_with("one", "demo", "server-1", &known).await;
    let error = founded.unwrap_err();
    assert!(matches!(error, FoundError::OtherCluster { .. }), "{error}");
    // A token in a URL would be in a file that everybody may read.
    let url = [
        "--repository",
        "https://planted-token@git.example.com/demo.git",
    ];
    let founded = world.found_with("one", "demo", "server-1", &url).await;
    let error = founded.unwrap_err().to_string();
    assert!(
        error.contains("repository.url: holds a user name"),
        "{error}"
    );
    assert!(!error.contains("planted-token"), "{error}");
    let written = std::fs::read_to_string(&one.config).unwrap();
    assert!(!written.contains("planted-token"));
}

async fn whose_age_key_opens_nothing_is_refused(world: &World) {
    let one = world.found("one", "demo", "server-1").await.unwrap();
    let refused = async |words: &str| {
        let error = world.found("late", "demo", "server-4").await.unwrap_err();
        assert!(matches!(error, FoundError::OtherAgeKey { .. }), "{error}");
        let told = error.to_string();
        assert!(
            told.contains(&one.age_recipient) && told.contains(words),
            "{told}"
        );
    };
    let key = world.path("late").join(founding_keys::AGE_KEY_FILE);
    refused("there is no").await;
    assert!(!key.exists());
    world.share_age_key("strange", "late");
    refused("is the key of age1").await;
    world.share_age_key("one", "late");
    let late = world.found("late", "demo", "server-4").await.unwrap();
    assert_eq!(late.age_recipient, one.age_recipient);

    // A cluster that was founded before this was written down.
    let clusters: Api<FabrikCluster> = Api::all(world.bed.kube().await.unwrap());
    let forgotten = serde_json::json!({"spec": {"ageRecipient": null}});
    let patch = Patch::Merge(&forgotten);
    let params = PatchParams::default();
    let patched = clusters.patch("demo", &params, &patch).await.unwrap();
    assert_eq!(patched.spec.age_recipient, None);
    world.found("one", "demo", "server-1").await.unwrap();
    let stated = clusters.get("demo").await.unwrap().spec.age_recipient;
    assert_eq!(stated, Some(one.age_recipient));
}

async fn the_configuration_stays_until_a_flag_says_otherwise(world: &World) {
    let found = async |flags: &[&str]| {
        let founded = world.found_with("one", "demo", "server-1", flags).await;
        founded.unwrap().config
    };
    let file = found(&["--token-file", "/keys/token", "--poll", "40s"]).await;
    let first = Config::load(&file).unwrap();
    assert_eq!(
        first.repository.token_file.as_deref(),
        Some(Path::new("/keys/token"))
    );
    assert_eq!(first.repository.poll, Duration::from_secs(40));
    assert_eq!(first.listen, "127.0.0.1:9640".parse().unwrap());

    let edited = Config {
        listen: "127.0.0.1:9999".parse().unwrap(),
        webhook: None,
        state_dir: "/elsewhere".into(),
        ..first
    };
    std::fs::write(&file, edited.render().unwrap()).unwrap();
    found(&[]).await;
    assert_eq!(Config::load(&file).unwrap(), edited);

    found(&["--poll", "1m", "--listen", "127.0.0.1:9641"]).await;
    let mut expected = edited;
    expected.repository.poll = Duration::from_secs(60);
    expected.listen = "127.0.0.1:9641".parse().unwrap();
    assert_eq!(Config::load(&file).unwrap(), expected);
}

async fn tokens_are_made_by_the_admins_kubeconfig_and_no_other(world: &World) {
    let founded = world.found("one", "demo", "server-1").await.unwrap();
    let mut config = Config::load(&founded.config).unwrap();
    let leader = config.kubernetes.leader_token_file.clone();
    let applier = config.kubernetes.applier_token_file.clone();
    let serving = std::fs::read(&leader).unwrap();

    std::fs::remove_file(&applier).unwrap();
    ensure_tokens(&config).await.unwrap();
    assert_eq!(std::fs::read(&leader).unwrap(), serving);
    assert!(applier.exists());

    let claims = URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":4600}"#);
    std::fs::write(&leader, format!("h.{claims}.s")).unwrap();
    ensure_tokens(&config).await.unwrap();
    let clients = Clients::connect(&config).await.unwrap();
    let (ledger, _) = LedgerStore::new(clients.leader_once).read().await.unwrap();
    assert_eq!(ledger.cluster, founded.cluster_id);

    config.kubernetes.admin_kubeconfig = None;
    ensure_tokens(&config).await.unwrap();
    std::fs::remove_file(&leader).unwrap();
    let error = ensure_tokens(&config).await.unwrap_err();
    assert!(matches!(error, ClusterError::Credentials { .. }), "{error}");
}

async fn the_leader_sees_what_is_on_a_node_and_empties_it(world: &World) {
    let founded = world.found("one", "demo", "server-1").await.unwrap();
    let config = Config::load(&founded.config).unwrap();
    let Clients {
        leader_once: leader,
        applier_once: applier,
        ..
    } = Clients::connect(&config).await.unwrap();
    let admin = world.bed.kube().await.unwrap();
    founding::drain::make_node(&admin).await;
    founding::drain::sees_and_evicts_pods_as_kubectl_would(&admin, &leader).await;
    founding::drain::sees_volumes_until_they_are_detached(&admin, &leader).await;
    founding::drain::forces_a_pod_and_no_other_of_its_name(&admin, &leader, &applier).await;
}

async fn each_identity_may_do_its_work_and_no_more(world: &World) {
    let founded = world.found("one", "demo", "server-1").await.unwrap();
    let clients = Clients::connect(&Config::load(&founded.config).unwrap())
        .await
        .unwrap();
    founding::access::of_the_leader(&clients.leader).await;
    founding::access::of_the_applier(&clients.applier).await;
    founding::access::of_a_node(&world.node("server-1").await).await;
    founding::policies::guard_the_status_of_nodes(world, &clients.leader_once).await;
    founding::agents::speak_for_their_own_node(world).await;
    founding::policies::guard_fabriks_keys(world, &clients.leader_once).await;
    founding::policies::guard_secrets(world, &clients.leader_once).await;
}

async fn a_person_gets_in_by_certificate_and_by_ssh(world: &World) {
    world.found("one", "demo", "server-1").await.unwrap();
    founding::kubeconfig::makes_an_admin_with_an_end(world).await;
    founding::ssh::knows_a_node_by_what_it_has_reported(world).await;
}
