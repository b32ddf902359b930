//! Founding on a real API server, and what its identities may and may not do afterwards.

mod founding {
    pub mod access;
    pub mod policies;
    pub mod world;
}

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fabrik::cluster::credentials::ensure_tokens;
use fabrik::cluster::{Clients, ClusterError, FoundError, LedgerStore};
use fabrik::config::Config;

use founding::world::World;

#[tokio::test]
async fn founders_agree_on_one_cluster_and_founding_again_changes_nothing() {
    let world = World::start().await;
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
    world.end().await;
}

#[tokio::test]
async fn a_token_that_ended_or_is_missing_is_made_by_the_admins_kubeconfig_and_no_other() {
    let world = World::start().await;
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
    world.end().await;
}

#[tokio::test]
async fn each_identity_may_do_its_work_and_no_more() {
    let world = World::start().await;
    let founded = world.found("one", "demo", "server-1").await.unwrap();
    let clients = Clients::connect(&Config::load(&founded.config).unwrap())
        .await
        .unwrap();
    founding::access::of_the_leader(&clients.leader).await;
    founding::access::of_the_applier(&clients.applier).await;
    founding::access::of_a_node(&world.node("server-1").await).await;
    founding::policies::guard_the_status_of_nodes(&world).await;
    founding::policies::guard_fabriks_keys(&world, &clients.leader_once).await;
    founding::policies::guard_secrets(&world, &clients.leader_once).await;
    world.end().await;
}
