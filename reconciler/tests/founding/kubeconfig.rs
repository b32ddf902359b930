//! What `fabrik kubeconfig` makes, tried on the API server that has signed it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::parse_x509_certificate;

use super::world::World;

pub async fn makes_an_admin_with_an_end(world: &World) {
    let (dir, admin) = (world.path("laptop"), world.bed.kubeconfig());
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("ada");
    let made = fabrik(
        &admin,
        &["--as", "ada", "--valid-for", "20m", "--output", text(&file)],
    );
    let said = String::from_utf8(made.stderr).unwrap();
    assert!(made.status.success(), "{said}");
    assert!(
        said.contains("ada of group fabrik:admins") && said.contains("minutes"),
        "{said}"
    );
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    is_an_admin(&Kubeconfig::read_from(&file).unwrap(), "demo", "ada").await;

    let left = end_of(&Kubeconfig::read_from(&file).unwrap()).duration_since(Timestamp::now());
    let minutes = SignedDuration::from_mins;
    assert!(left > minutes(15) && left <= minutes(20), "{left}");

    // Into the file that it is used with, beside what is there.
    let own = dir.join("own");
    std::fs::copy(&admin, &own).unwrap();
    let merged = fabrik(&own, &["--as", "grace", "--merge", "--context", "new"]);
    assert!(merged.status.success(), "{merged:?}");
    let merged = Kubeconfig::read_from(&own).unwrap();
    assert_eq!(merged.current_context.as_deref(), Some("bed"));
    is_an_admin(&merged, "new", "grace").await;

    let requests: Api<CertificateSigningRequest> = Api::all(world.bed.kube().await.unwrap());
    let left = requests.list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items, []);

    // Who may do little gets nothing, and nothing is made.
    let eve = world.bed.kubeconfig_for("eve", None).unwrap();
    let refused = fabrik(
        &eve,
        &[
            "--as",
            "eve",
            "--cluster",
            "demo",
            "--output",
            text(&dir.join("eve")),
        ],
    );
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && told.contains("forbidden"),
        "{told}"
    );
    assert!(!dir.join("eve").exists());
    let masters = fabrik(&admin, &["--as", "system:admin", "--output", "-"]);
    assert!(
        !masters.status.success() && masters.stdout.is_empty(),
        "{masters:?}"
    );
}

async fn is_an_admin(kubeconfig: &Kubeconfig, context: &str, user: &str) {
    let options = KubeConfigOptions {
        context: Some(context.to_owned()),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options);
    let client = Client::try_from(config.await.unwrap()).unwrap();
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = SelfSubjectReview::default();
    let review = reviews.create(&PostParams::default(), &review).await;
    let who = review.unwrap().status.unwrap().user_info.unwrap();
    assert_eq!(who.username.as_deref(), Some(user));
    let groups = who.groups.unwrap();
    assert!(
        groups.iter().any(|group| group == "fabrik:admins"),
        "{groups:?}"
    );
    assert!(
        !groups.iter().any(|group| group == "system:masters"),
        "{groups:?}"
    );

    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    secrets.list(&ListParams::default()).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let metadata = ObjectMeta {
        name: Some(user.to_owned()),
        ..ObjectMeta::default()
    };
    let map = ConfigMap {
        metadata,
        ..ConfigMap::default()
    };
    maps.create(&PostParams::default(), &map).await.unwrap();
    maps.delete(user, &DeleteParams::default()).await.unwrap();
}

fn end_of(kubeconfig: &Kubeconfig) -> Timestamp {
    use base64::Engine as _;
    let user = kubeconfig.auth_infos[0].auth_info.clone().unwrap();
    let pem = user.client_certificate_data.unwrap();
    let pem = base64::engine::general_purpose::STANDARD
        .decode(pem)
        .unwrap();
    let der = CertificateDer::from_pem_slice(&pem).unwrap();
    let (_, certificate) = parse_x509_certificate(&der).unwrap();
    Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap()
}

/// By `$KUBECONFIG`, so that `--merge` finds the same file.
fn fabrik(kubeconfig: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fabrik"))
        .arg("kubeconfig")
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
