//! The first server of a cluster is handed its secrets over SSH: here by the program that a laptop runs there, with a
//! stand-in for systemd and a real API server for k3s'.

#[path = "identify/cloud.rs"]
mod cloud;
mod handover {
    pub mod machine;
}

use fabrik::cluster::resources::FabrikCluster;
use fabrik::cluster::{Clients, Founded, LedgerStore};
use fabrik::config::Config;
use fabrik::node::AgentConfig;
use fabrik_bed::{Bed, Options};
use kube::api::Api;
use serde_json::{Value, json};

use cloud::Cloud;
use handover::machine::{Machine, USER_DATA_KEY, bundle, planted, user_data};

const CLUSTER: &str = "abcdefgh01234567";
const OWN_KEY: &str = "var/lib/fabrik-identity/ssh_host_ed25519_key";
const HOST_KEY: &str = "etc/ssh/ssh_host_ed25519_key";
const AUTHORIZED: &str = "root/.ssh/authorized_keys";
const K3S: &str = "etc/rancher/k3s/config.yaml.d/50-fabrik.yaml";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_server_boots_without_a_secret_and_makes_a_host_key_that_nobody_has_seen() {
    let cloud = Cloud::start().await;
    let machine = Machine::new();
    let (id, metadata) = cloud.server("demo-servers-abc234", &user_data()).await;

    // Before it knows who it is.
    let (ok, said) = machine.fabrik(&["receive", "host-key"], b"");
    assert!(
        !ok && said.contains("does not know yet who it is"),
        "{said}"
    );

    machine.identify(&metadata).unwrap();
    assert_eq!(machine.read("etc/fabrik/hostname"), "demo-servers-abc234\n");
    assert_eq!(machine.read(HOST_KEY), USER_DATA_KEY);
    assert_eq!(machine.mode(HOST_KEY), 0o600);
    assert!(
        machine
            .read(&format!("{HOST_KEY}.pub"))
            .starts_with("ssh-ed25519 ")
    );
    assert_eq!(
        machine.read(AUTHORIZED),
        "ssh-ed25519 AAAAlaptop fabrik-seed\n"
    );
    assert_eq!(machine.take_calls(), ["restart sshd"]);
    let k3s: Value = serde_saphyr::from_str(&machine.read(K3S)).unwrap();
    assert_eq!(k3s["advertise-address"], "10.0.1.1");
    assert_eq!(
        k3s["kubelet-arg+"],
        json!([format!("provider-id=hcloud://{id}")])
    );
    assert!(k3s.get("server").is_none() && k3s.get("cluster-init").is_none());
    assert!(!machine.has("etc/fabrik/agent.toml") && !machine.has("var/lib/fabrik-identity/token"));

    // While it has the host key of its user data it takes nothing.
    let (ok, said) = machine.fabrik(&["receive", "identity"], &bundle(json!({})));
    assert!(
        !ok && said.contains("still has the host key of its user data"),
        "{said}"
    );
    assert!(!machine.has("etc/fabrik/age.key"));

    let (ok, public) = machine.fabrik(&["receive", "host-key"], b"");
    assert!(ok, "{public}");
    assert_eq!(machine.fabrik(&["receive", "host-key"], b"").1, public);
    assert_eq!(machine.read(HOST_KEY), USER_DATA_KEY, "it was only asked");
    assert_eq!(machine.mode(OWN_KEY), 0o600);
    machine.kill_at("restart sshd");
    assert!(!machine.fabrik(&["receive", "host-key", "--use"], b"").0);
    for _ in 0..2 {
        let (ok, used) = machine.fabrik(&["receive", "host-key", "--use"], b"");
        assert!(ok && used == public, "{used}");
        assert_eq!(machine.read(HOST_KEY), machine.read(OWN_KEY));
        assert_eq!(machine.read(&format!("{HOST_KEY}.pub")), public);
    }
    assert_eq!(machine.take_calls(), ["restart sshd"; 3]);

    // The next boot: the key of the user data does not come back, nor does the laptop's after it has gone.
    assert!(machine.fabrik(&["receive", "done"], b"").0);
    assert!(machine.fabrik(&["receive", "done"], b"").0);
    machine.identify(&metadata).unwrap();
    assert_eq!(machine.read(HOST_KEY), machine.read(OWN_KEY));
    assert_eq!(machine.read(AUTHORIZED), "");
    assert!(machine.take_calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_for_this_machine_is_refused_and_leaves_nothing() {
    let cloud = Cloud::start().await;
    let machine = Machine::new();
    let (_, metadata) = cloud.server("demo-servers-abc234", &user_data()).await;
    machine.identify(&metadata).unwrap();
    assert!(machine.fabrik(&["receive", "host-key", "--use"], b"").0);
    let other = json!({"cluster": {"name": "demo", "id": "zzzzzzzz01234567"}});
    for (sent, words) in [
        (bundle(json!({"fabrik": 2})), "what came has layout 2"),
        (bundle(other), "made for cluster demo (abcdefgh01234567)"),
        (bundle(json!({"age-key": 7})), "not what fabrik hands over"),
        (
            bundle(json!({}))[..40].to_vec(),
            "not what fabrik hands over",
        ),
    ] {
        let (ok, said) = machine.fabrik(&["receive", "identity"], &sent);
        assert!(!ok && said.contains(words), "{said}");
        assert!(planted(&sent).iter().all(|secret| !said.contains(secret)));
        assert!(!machine.has("etc/fabrik/age.key"));
    }
    // One whose data are gone founds no second cluster, whoever asks.
    machine.write("etc/rancher/k3s/fabrik-had-data", "");
    let (ok, said) = machine.fabrik(&["receive", "identity"], &bundle(json!({})));
    assert!(!ok && said.contains("it founds no second one"), "{said}");
    assert!(!machine.has("etc/fabrik/age.key") && !machine.read(K3S).contains("cluster-init"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_that_is_cut_off_anywhere_and_repeated_founds_one_cluster() {
    let cloud = Cloud::start().await;
    let bed = Bed::start(Options::default()).await.unwrap();
    let machine = Machine::new();
    machine.k3s_is(&bed.kubeconfig());
    let (_, metadata) = cloud.server("demo-servers-abc234", &user_data()).await;
    machine.identify(&metadata).unwrap();
    assert!(machine.fabrik(&["receive", "host-key", "--use"], b"").0);
    machine.take_calls();
    let sent = bundle(json!({}));

    let receive = || machine.fabrik(&["receive", "identity"], &sent);
    for (step, founds) in [
        ("start k3s", true),
        ("started k3s", true),
        ("start fabrik", false),
    ] {
        machine.kill_at(step);
        assert!(!receive().0, "{step}");
        let told = machine.read(K3S).contains("\ncluster-init: true\n");
        assert_eq!(told, founds, "{step}");
        // The machine may boot in between: it is told nothing that would found.
        machine.identify(&metadata).unwrap();
        assert!(!machine.read(K3S).contains("cluster-init"));
    }
    let (ok, said) = receive();
    assert!(ok, "{said}");
    let founded: Founded = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(founded.cluster_id.as_str(), CLUSTER);
    assert_eq!(
        machine.fabrik(&["receive", "start"], b""),
        (true, said.lines().last().unwrap().to_owned() + "\n")
    );
    assert!(!machine.read(K3S).contains("cluster-init"));
    assert!(
        machine
            .take_calls()
            .contains(&"start fabrik fabrik-agent".to_owned())
    );

    let config = Config::load(&machine.path("etc/fabrik/config.toml")).unwrap();
    assert_eq!(config.kubernetes.join_urls, ["https://10.0.1.1:6443"]);
    assert_eq!(config.node.as_str(), "demo-servers-abc234");
    assert_eq!(config.state_dir, machine.path("var/lib/fabrik"));
    let clients = Clients::connect(&config).await.unwrap();
    let (ledger, _) = LedgerStore::new(clients.leader_once).read().await.unwrap();
    assert_eq!((ledger.cluster.as_str(), ledger.next_intent), (CLUSTER, 1));
    let clusters: Api<FabrikCluster> = Api::all(bed.kube().await.unwrap());
    assert_eq!(clusters.get("demo").await.unwrap().spec.cluster_id, CLUSTER);

    let agent = AgentConfig::load(&machine.path("etc/fabrik/agent.toml")).unwrap();
    assert_eq!(agent.cluster.public_key, founded.signing_key);
    assert_eq!(agent.cache.urls, ["https://10.0.1.1:9642"]);
    let before = machine.read("etc/fabrik/agent.toml");
    machine.identify(&metadata).unwrap();
    assert_eq!(machine.read("etc/fabrik/agent.toml"), before);

    // Another laptop, with keys of its own, changes nothing of it.
    let (ok, said) = machine.fabrik(&["receive", "identity"], &bundle(json!({})));
    assert!(
        !ok && said.contains("age.key: it holds another key"),
        "{said}"
    );
    let said = machine.all_that_was_said();
    assert!(planted(&sent).iter().all(|secret| !said.contains(secret)));
    bed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_a_person_made_boots_as_it_was_told_to() {
    let cloud = Cloud::start().await;
    let machine = Machine::new();
    let (_, metadata) = cloud.server("one", "#cloud-config\n").await;
    let boot =
        |metadata: &str| machine.fabrik(&["identify", "--or-by-hand", "--metadata", metadata], b"");
    let (ok, said) = boot(&metadata);
    assert!(ok, "{said}");
    assert!(!machine.has("etc") && !machine.has("var/lib/fabrik-identity"));
    // Once k3s is told who it is, nobody is asked: elsewhere than at Hetzner nobody would answer.
    machine.write(K3S, "node-name: server-1\n");
    let (ok, said) = boot("http://127.0.0.1:1");
    assert!(ok, "{said}");
    assert_eq!(machine.read(K3S), "node-name: server-1\n");
    assert!(machine.take_calls().is_empty());
}
