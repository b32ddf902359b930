use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use http::{Request, Response};
use k8s_openapi::ByteString;
use kube::client::Body;

use super::*;
use crate::delivery::tests::{delivery, recipient};
use crate::signing::SigningKey;
use crate::signing::tests::founded;

const CLUSTER: &str = "abcdefgh01234567";

fn config(dir: &Path, public_key: &str) -> AgentConfig {
    let text = format!(
        "node = \"w-1\"\nstate-dir = \"{0}/state\"\nroot = \"{0}\"\nkubeconfig = \"/x\"\nfront = \"127.0.0.1:1\"\n\
         [cluster]\nname = \"demo\"\nid = \"{CLUSTER}\"\npublic-key = \"{public_key}\"\n\
         [cache]\nurls = [\"https://127.0.0.1:1\"]\n[nix]\nprogram-dir = \"/x\"\n",
        dir.display()
    );
    AgentConfig::parse("agent.toml", &text).unwrap()
}

fn start(config: &AgentConfig) -> (Keeper, watch::Receiver<Holdings>) {
    let (holdings, told) = watch::channel(Holdings::default());
    (Keeper::start(config, holdings), told)
}

fn sealed(key: &SigningKey, to: &Holdings, sequence: u64, value: &str) -> Sealed {
    let (cluster, node) = (CLUSTER.parse().unwrap(), "w-1".parse().unwrap());
    let to = (
        to.recipient.clone().unwrap(),
        Addressee {
            cluster: &cluster,
            node: &node,
        },
    );
    let own = fs::metadata("/proc/self").unwrap();
    let mut delivery = delivery(sequence, &[("vpn", value, "0400")]);
    for file in delivery.files.values_mut() {
        use std::os::unix::fs::MetadataExt as _;
        (file.owner, file.group) = (own.uid().to_string(), own.gid().to_string());
    }
    delivery::seal(key, &to.0, to.1, &delivery).unwrap()
}

#[test]
fn the_key_is_made_once_for_the_agent_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_, public) = founded(dir.path());
    let config = config(dir.path(), &public);
    let (_, told) = start(&config);
    let first = told.borrow().clone();
    assert!(first.recipient.is_some() && first.problem.is_none() && first.digest.is_none());
    let path = config.state_dir.join("age.key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let (keeper, told) = start(&config);
    assert_eq!(*told.borrow(), first);
    assert_eq!(
        Some(recipient(keeper.key.as_ref().unwrap())),
        first.recipient
    );

    fs::write(&path, "nothing\n").unwrap();
    let (_, told) = start(&config);
    let told = told.borrow().clone();
    assert!(
        told.problem
            .unwrap()
            .contains("age.key: it holds no age identity")
    );
    assert_eq!(
        fs::read(&path).unwrap(),
        b"nothing\n",
        "nobody makes another one by himself"
    );
}

#[test]
fn what_was_given_before_is_in_place_again_after_a_boot() {
    let dir = tempfile::tempdir().unwrap();
    let (signer, public) = founded(dir.path());
    let config = config(dir.path(), &public);
    let (_, told) = start(&config);
    let to = told.borrow().clone();
    let given = sealed(&signer, &to, 7, "hunter2");
    State::new(&config.state_dir).write_secrets(&given).unwrap();
    let (_, told) = start(&config);
    let file = dir.path().join("run/fabrik/secrets/vpn");
    assert_eq!(fs::read_to_string(&file).unwrap(), "hunter2");
    assert!(told.borrow().digest.is_some());

    fs::remove_dir_all(dir.path().join("run")).unwrap();
    place_once(&config);
    assert_eq!(fs::read_to_string(&file).unwrap(), "hunter2");
    for entry in fs::read_dir(&config.state_dir).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap();
        assert!(
            !String::from_utf8_lossy(&content).contains("hunter2"),
            "on the disk"
        );
    }

    // What somebody else has left there is no word of the leader's, and what is in place stays.
    let other = tempfile::tempdir().unwrap();
    let forged = sealed(&founded(other.path()).0, &to, 8, "forged");
    State::new(&config.state_dir)
        .write_secrets(&forged)
        .unwrap();
    let (_, told) = start(&config);
    assert!(
        told.borrow()
            .problem
            .as_ref()
            .unwrap()
            .contains("are not signed by")
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "hunter2");
}

/// An API server that has this lying ready for any node.
fn lies_ready(sealed: &Sealed) -> Api<Object> {
    let data = [
        (CIPHERTEXT_KEY, sealed.ciphertext.clone()),
        (SIGNATURE_KEY, sealed.signature.clone().into_bytes()),
    ];
    let data = data.map(|(key, bytes)| (key.to_owned(), ByteString(bytes)));
    let object = Object {
        data: Some(data.into()),
        ..Object::default()
    };
    let text = serde_json::to_string(&object).unwrap();
    let service = tower::service_fn(move |_: Request<Body>| {
        let body = Body::from(text.clone().into_bytes());
        async move { Ok::<_, Infallible>(Response::new(body)) }
    });
    Api::namespaced(Client::new(service, "default"), NAMESPACE)
}

#[tokio::test]
async fn only_what_the_node_was_told_of_is_placed_and_nothing_older() {
    let dir = tempfile::tempdir().unwrap();
    let (signer, public) = founded(dir.path());
    let config = config(dir.path(), &public);
    let mut keeper = Keeper::start(&config, watch::Sender::default());
    let to = keeper.holdings.borrow().clone();
    let digest =
        |sequence: u64| -> Option<SecretsDigest> { format!("{sequence:064x}").parse().ok() };
    let file = dir.path().join("run/fabrik/secrets/vpn");
    let placed = || fs::read_to_string(&file).unwrap();

    let seven = lies_ready(&sealed(&signer, &to, 7, "hunter7"));
    assert!(keeper.catch_up(&seven, digest(7)).await.unwrap().is_empty());
    assert_eq!(placed(), "hunter7");
    let eight = lies_ready(&sealed(&signer, &to, 8, "hunter8"));
    let amiss = keeper.catch_up(&eight, digest(9)).await.unwrap();
    assert!(
        amiss[0].contains("not those that it was told of"),
        "{amiss:?}"
    );
    assert_eq!(placed(), "hunter7");
    let six = lies_ready(&sealed(&signer, &to, 6, "hunter6"));
    let refused = keeper.catch_up(&six, digest(6)).await.unwrap_err();
    assert!(
        refused.to_string().contains("of a later one, 7"),
        "{refused}"
    );
    assert_eq!(placed(), "hunter7");
    let forged = tempfile::tempdir().unwrap();
    let forged = lies_ready(&sealed(&founded(forged.path()).0, &to, 9, "forged"));
    let refused = keeper.catch_up(&forged, digest(9)).await.unwrap_err();
    assert!(refused.to_string().contains("not signed by"), "{refused}");
    assert_eq!(placed(), "hunter7");

    // One that the disk does not take is not placed either: the next look would put back what is there.
    let on_disk = config.state_dir.join("secrets.json");
    fs::remove_file(&on_disk).unwrap();
    fs::create_dir(&on_disk).unwrap();
    keeper.catch_up(&eight, digest(8)).await.unwrap_err();
    assert_eq!(placed(), "hunter7");
}
