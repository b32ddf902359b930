//! Certificate authorities of a bed and what they sign. Keys live in the bed's folder only.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// One authority. The cluster has one for clients and servers of the API, etcd has its own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    key_pem: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Certified {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// What a certificate says about its holder.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    pub common_name: String,
    /// Kubernetes reads the organization as a group.
    pub organization: Option<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Subject {
    pub fn client(user: &str, group: Option<&str>) -> Self {
        Self {
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            ..Self::default()
        }
    }

    pub fn server(name: &str, dns_names: &[&str], addresses: &[IpAddr]) -> Self {
        Self {
            common_name: name.to_owned(),
            dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.to_vec(),
            ..Self::default()
        }
    }
}

impl Authority {
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate_pem,
            key_pem,
        })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A new key and a certificate for it, good for both ends of TLS.
    pub fn issue(&self, subject: &Subject) -> Result<Certified> {
        let key = KeyPair::generate()?;
        let params = leaf(subject)?;
        Ok(Certified {
            certificate_pem: params.signed_by(&key, &self.issuer)?.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs the key of a request. The name in it is not believed: `subject` is what counts.
    pub fn sign_request(&self, request_pem: &str, subject: &Subject) -> Result<String> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .context("reading the certificate signing request")?;
        request.params = leaf(subject)?;
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

fn leaf(subject: &Subject) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(subject.dns_names.clone())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, subject.common_name.as_str());
    if let Some(organization) = &subject.organization {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization.as_str());
    }
    params
        .subject_alt_names
        .extend(subject.addresses.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    Ok(params)
}

/// Writes a certificate and its key as `<name>.crt` and `<name>.key`, and says where.
pub fn write(dir: &Path, name: &str, certified: &Certified) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (
        dir.join(format!("{name}.crt")),
        dir.join(format!("{name}.key")),
    );
    fs::write(&certificate, &certified.certificate_pem)?;
    write_private(&key, certified.key_pem.as_bytes())?;
    Ok((certificate, key))
}

/// Writes a file that only its owner reads.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
