//! The kubelet's own certificate, by which a node speaks with API servers and the leader's cache.
//!
//! k3s renews it under the same name: whoever uses it asks again and compares.

use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::NodeError;
use super::error::causes;
use crate::cluster::connect::unreadable;
use crate::secrets::Secret;

/// What the kubeconfig says at one moment.
#[derive(Clone, Debug)]
pub struct Identity {
    kubeconfig: Kubeconfig,
    path: PathBuf,
    /// The authorities that servers are believed by, as PEM.
    authority: Vec<u8>,
    /// The certificate and its key, as PEM.
    certificate: Secret,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.authority == other.authority && self.certificate.expose() == other.certificate.expose()
    }
}

impl Identity {
    pub fn read(path: &Path) -> Result<Self, NodeError> {
        let failed = |problem: String| NodeError::Kubeconfig {
            path: path.to_owned(),
            problem,
        };
        let kubeconfig = Kubeconfig::read_from(path).map_err(|e| failed(unreadable(&e)))?;
        let cluster = kubeconfig.clusters.first().and_then(|c| c.cluster.as_ref());
        let user = kubeconfig.auth_infos.first();
        let user = user.and_then(|u| u.auth_info.as_ref());
        let (Some(cluster), Some(user)) = (cluster, user) else {
            return Err(failed("it has no cluster or no user".to_owned()));
        };
        let data = cluster.certificate_authority_data.as_deref();
        let authority = bytes(data, cluster.certificate_authority.as_deref());
        let certificate = bytes(
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        );
        let data = user
            .client_key_data
            .as_ref()
            .map(ExposeSecret::expose_secret);
        let key = bytes(data, user.client_key.as_deref());
        let mut pem = certificate.map_err(|e| failed(format!("its client certificate {e}")))?;
        pem.push(b'\n');
        pem.extend(key.map_err(|e| failed(format!("its client key {e}")))?);
        Ok(Self {
            authority: authority.map_err(|e| failed(format!("its certificate authority {e}")))?,
            certificate: Secret::new(pem),
            path: path.to_owned(),
            kubeconfig,
        })
    }

    /// A client of the API server that the kubelet uses.
    pub async fn api_client(&self) -> Result<Client, NodeError> {
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(self.kubeconfig.clone(), &options);
        let mut config = config.await.map_err(|e| self.failed(&e))?;
        config.connect_timeout = Some(super::api::CONNECT_TIMEOUT);
        Client::try_from(config).map_err(|e| self.failed(&e))
    }

    /// A client of the leader's cache.
    pub fn cache_client(&self) -> Result<reqwest::Client, NodeError> {
        let authorities = reqwest::Certificate::from_pem_bundle(&self.authority);
        let identity = reqwest::Identity::from_pem(self.certificate.expose());
        reqwest::Client::builder()
            .user_agent(concat!("fabrik/", env!("CARGO_PKG_VERSION")))
            .tls_certs_only(authorities.map_err(|e| self.failed(&e))?)
            .identity(identity.map_err(|e| self.failed(&e))?)
            .connect_timeout(super::front::CONNECT_TIMEOUT)
            .read_timeout(super::front::SILENCE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &dyn std::error::Error) -> NodeError {
        NodeError::Kubeconfig {
            path: self.path.clone(),
            problem: causes(error),
        }
    }
}

/// From the kubeconfig itself or the file that it names.
fn bytes(data: Option<&str>, file: Option<&str>) -> Result<Vec<u8>, String> {
    match (data, file) {
        (Some(data), _) => STANDARD.decode(data).map_err(|_| "is no base64".to_owned()),
        (None, Some(file)) => {
            std::fs::read(file).map_err(|error| format!("{file} can't be read: {error}"))
        }
        (None, None) => Err("is missing".to_owned()),
    }
}
