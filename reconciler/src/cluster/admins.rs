//! Certificates for people, with an end: asked for by a CertificateSigningRequest, and approved by who may already do anything.
//!
//! The private key is made here and leaves this process in what it writes alone.

use std::time::Duration;

use fabrik_core::names::ADMINS_GROUP;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, ResourceExt as _};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use x509_parser::parse_x509_certificate;

use super::error::{ClusterError, while_doing};
use crate::secrets::Secret;

/// Signs what the API server knows clients by (kubernetes.io, "Certificates and Certificate Signing Requests").
const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// The least that `spec.expirationSeconds` may be (the same page).
pub const SHORTEST_LIFE: Duration = Duration::from_secs(600);
/// X.520's ub-common-name.
pub const MAX_USER_CHARS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(30);

/// Who somebody is to the API server, and until when.
#[derive(Debug, Clone)]
pub struct Credential {
    pub certificate_pem: Vec<u8>,
    pub key_pem: Secret,
    pub until: Timestamp,
}

/// Whether `user` may be somebody's name: `system:…` are Kubernetes' own.
pub fn is_user(user: &str) -> bool {
    let length = 1..=MAX_USER_CHARS;
    length.contains(&user.chars().count())
        && !user.starts_with("system:")
        && !user.chars().any(char::is_control)
}

/// A certificate of the group `fabrik:admins` for `user`. The signer may give it a shorter life than was asked for.
///
/// # Errors
/// `client` may not approve it, or nobody signs. Safe to drop; the request then ends by itself within hours.
pub async fn certificate(
    client: &Client,
    user: &str,
    life: Duration,
) -> Result<Credential, ClusterError> {
    let key = KeyPair::generate().map_err(|error| unmade(&error))?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, ADMINS_GROUP);
    subject.push(DnType::CommonName, user);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    let request = params.serialize_request(&key).and_then(|csr| csr.pem());
    let spec = CertificateSigningRequestSpec {
        request: ByteString(request.map_err(|error| unmade(&error))?.into_bytes()),
        signer_name: SIGNER.to_owned(),
        expiration_seconds: Some(i32::try_from(life.as_secs()).unwrap_or(i32::MAX)),
        usages: Some(vec![
            "digital signature".to_owned(),
            "client auth".to_owned(),
        ]),
        ..CertificateSigningRequestSpec::default()
    };
    let metadata = ObjectMeta {
        generate_name: Some("fabrik-admin-".to_owned()),
        ..ObjectMeta::default()
    };
    let request = CertificateSigningRequest {
        metadata,
        spec,
        status: None,
    };
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let made = requests.create(&PostParams::default(), &request).await;
    let name = made
        .map_err(while_doing("asking for a certificate"))?
        .name_any();
    let signed = approved(&requests, &name).await;
    let deleted = requests.delete(&name, &DeleteParams::default()).await;
    let certificate_pem = signed?;
    deleted.map_err(while_doing(format!(
        "deleting CertificateSigningRequest {name}"
    )))?;
    Ok(Credential {
        until: end(&certificate_pem).map_err(|problem| malformed(&name, problem))?,
        certificate_pem,
        key_pem: Secret::new(key.serialize_pem().into_bytes()),
    })
}

async fn approved(
    requests: &Api<CertificateSigningRequest>,
    name: &str,
) -> Result<Vec<u8>, ClusterError> {
    let approval = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "FabrikKubeconfig",
        "message": "asked for by fabrik kubeconfig",
    }]}});
    let patch = Patch::Merge(&approval);
    let approved = requests
        .patch_approval(name, &PatchParams::default(), &patch)
        .await;
    approved.map_err(while_doing(format!(
        "approving CertificateSigningRequest {name}"
    )))?;
    let answered = await_condition(requests.clone(), name, is_answered());
    let answered = tokio::time::timeout(DEADLINE, answered).await;
    let answered = answered.map_err(|_| {
        let deadline = DEADLINE.as_secs();
        malformed(
            name,
            format!("nobody has signed it within {deadline} s; is the controller manager up?"),
        )
    })?;
    let request = answered.map_err(|error| malformed(name, error.to_string()))?;
    let status = request.and_then(|request| request.status);
    let refused = |status: &k8s_openapi::api::certificates::v1::CertificateSigningRequestStatus| {
        let conditions = status.conditions.iter().flatten();
        let refused = conditions.filter(|c| c.type_ != "Approved");
        let words: Vec<String> = refused.filter_map(|c| c.message.clone()).collect();
        words.join(", ")
    };
    let why = status.as_ref().map(refused).unwrap_or_default();
    match status.and_then(|status| status.certificate) {
        Some(certificate) => Ok(certificate.0),
        None => Err(malformed(name, format!("it was refused: {why}"))),
    }
}

/// Signed, or it never will be.
fn is_answered() -> impl Condition<CertificateSigningRequest> {
    |request: Option<&CertificateSigningRequest>| {
        let status = request.and_then(|request| request.status.as_ref());
        let conditions = status
            .into_iter()
            .flat_map(|s| s.conditions.iter().flatten());
        let mut refusals = conditions.filter(|c| c.type_ == "Denied" || c.type_ == "Failed");
        status.is_some_and(|s| s.certificate.is_some()) || refusals.next().is_some()
    }
}

fn end(pem: &[u8]) -> Result<Timestamp, String> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let (_, certificate) = parse_x509_certificate(&der).map_err(|error| error.to_string())?;
    let end = certificate.validity().not_after.timestamp();
    Timestamp::from_second(end).map_err(|error| error.to_string())
}

fn malformed(name: &str, problem: String) -> ClusterError {
    ClusterError::Malformed {
        object: format!("CertificateSigningRequest {name}"),
        problem,
    }
}

fn unmade(error: &rcgen::Error) -> ClusterError {
    ClusterError::Malformed {
        object: "a request for a certificate".to_owned(),
        problem: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_nobody_of_kubernetes_own() {
        for good in ["ada", "ada@example.com", "Ada Lovelace"] {
            assert!(is_user(good), "{good}");
        }
        for bad in ["", "system:admin", "a\nb", &"x".repeat(65)] {
            assert!(!is_user(bad), "{bad}");
        }
    }
}
