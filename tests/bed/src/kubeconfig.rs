//! Kubeconfig files and clients for the identities of a bed.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::pki::Certified;

/// A name that each API server's certificate carries, for who reaches it at another address.
pub const TLS_SERVER_NAME: &str = "kubernetes";

/// Where an API server is reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub url: String,
    /// The certificate is checked for [`TLS_SERVER_NAME`] instead of the URL's host.
    pub through_balancer: bool,
}

/// A whole kubeconfig as text (JSON, which is YAML), with its credentials in it.
pub fn text(endpoint: &Endpoint, ca_pem: &str, identity: &Certified) -> String {
    let mut cluster = json!({
        "server": endpoint.url,
        "certificate-authority-data": STANDARD.encode(ca_pem),
    });
    if endpoint.through_balancer {
        cluster["tls-server-name"] = TLS_SERVER_NAME.into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bed", "cluster": cluster}],
        "users": [{"name": "bed", "user": {
            "client-certificate-data": STANDARD.encode(&identity.certificate_pem),
            "client-key-data": STANDARD.encode(&identity.key_pem),
        }}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "bed"}}],
        "current-context": "bed",
    })
    .to_string()
}

/// A client that gives up on a server that does not answer.
pub async fn client(kubeconfig: &str) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).context("reading a kubeconfig")?;
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    config.connect_timeout = Some(Duration::from_secs(3));
    Ok(kube::Client::try_from(config)?)
}
