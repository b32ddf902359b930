//! Which kubeconfig leads to the cluster, looked for as kubectl does, and what to do where it does not lead there.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::AccessError;
use crate::cluster::connect::unreadable;
use crate::seed::kubeconfigs;

const VARIABLE: &str = "KUBECONFIG";
/// Set in each pod (kubernetes.io, "Accessing the Kubernetes API from a Pod").
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";
/// Of each server's k3s, for root alone.
const OF_K3S: &str = "/etc/rancher/k3s/k3s.yaml";

/// Where the way to a cluster was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag named it.
    Flag(PathBuf),
    /// Files that `$KUBECONFIG` names.
    Variable(String),
    Home(PathBuf),
    /// The account of the pod that this runs in.
    Pod,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(file) | Self::Home(file) => file.display().fmt(f),
            Self::Variable(files) => write!(f, "{files}, which {VARIABLE} names,"),
            Self::Pod => f.write_str("this pod's own account"),
        }
    }
}

impl Origin {
    pub fn find(flag: Option<&Path>) -> Result<Self, AccessError> {
        if let Some(file) = flag {
            return Ok(Self::Flag(file.to_owned()));
        }
        if let Some(files) = std::env::var_os(VARIABLE).filter(|files| !files.is_empty()) {
            return Ok(Self::Variable(files.to_string_lossy().into_owned()));
        }
        let home = std::env::home_dir().unwrap_or_default();
        let file = home.join(".kube/config");
        if file.exists() {
            Ok(Self::Home(file))
        } else if std::env::var_os(IN_POD).is_some() {
            Ok(Self::Pod)
        } else {
            Err(AccessError::NoKubeconfig { looked_at: file })
        }
    }

    /// The kubeconfig itself. A pod's account has none.
    pub fn kubeconfig(&self) -> Result<Kubeconfig, AccessError> {
        match self {
            Self::Flag(file) | Self::Home(file) => Kubeconfig::read_from(file),
            Self::Variable(files) => all_of(files),
            Self::Pod => Kubeconfig::read(),
        }
        .map_err(|error| AccessError::Kubeconfig {
            from: self.clone(),
            problem: unreadable(&error),
        })
    }

    async fn config(&self) -> Result<Config, AccessError> {
        if *self == Self::Pod {
            return Config::incluster().map_err(|error| self.is_of_no_use(&error));
        }
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(self.kubeconfig()?, &options).await;
        config.map_err(|error| self.is_of_no_use(&error))
    }

    fn is_of_no_use(&self, error: &dyn Error) -> AccessError {
        AccessError::Kubeconfig {
            from: self.clone(),
            problem: error.to_string(),
        }
    }
}

/// Of several files kubectl leaves out those that are not there (kubernetes.io, "Organizing Cluster Access Using kubeconfig Files").
fn all_of(files: &str) -> Result<Kubeconfig, KubeconfigError> {
    let (there, missing): (Vec<_>, Vec<_>) =
        std::env::split_paths(files).partition(|file| file.exists());
    let files = if there.is_empty() { missing } else { there };
    files.iter().try_fold(Kubeconfig::default(), |all, file| {
        all.merge(Kubeconfig::read_from(file)?)
    })
}

/// A way that was found; whether it leads anywhere is seen when it is gone.
pub struct Way {
    pub client: Client,
    from: Origin,
    server: String,
}

impl Way {
    pub async fn find(flag: Option<&Path>) -> Result<Self, AccessError> {
        let from = Origin::find(flag)?;
        let config = from.config().await?;
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|error| from.is_of_no_use(&error))?;
        Ok(Self {
            client,
            from,
            server,
        })
    }

    /// What failed at its end, with where it leads to.
    pub fn explain(&self, error: AccessError) -> AccessError {
        let AccessError::Api { error, what } = error else {
            return error;
        };
        let (from, server) = (self.from.clone(), self.server.clone());
        match *error {
            kube::Error::Api(status) if status.code == 401 => AccessError::NotLetIn {
                from,
                server,
                said: status.message,
            },
            error @ kube::Error::Api(_) => AccessError::Api {
                error: Box::new(error),
                what,
            },
            error => AccessError::Unreachable {
                from,
                server,
                problem: innermost(&error),
            },
        }
    }
}

/// What an error began with, without what others said on its way.
pub fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

/// The kubeconfigs on this machine that nobody looks for by themselves.
pub fn others_here() -> String {
    let of_seeds = kubeconfigs();
    let of_seeds: Vec<_> = of_seeds.iter().map(|f| f.display().to_string()).collect();
    if !of_seeds.is_empty() {
        format!("; `fabrik seed` wrote {}", of_seeds.join(", "))
    } else if Path::new(OF_K3S).exists() {
        format!("; k3s wrote {OF_K3S}")
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_files_those_that_are_not_there_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (there, missing) = (dir.path().join("config"), dir.path().join("missing"));
        std::fs::write(&there, "current-context: here\n").unwrap();
        let of = |files: &[&Path]| {
            let files = std::env::join_paths(files).unwrap();
            Origin::Variable(files.into_string().unwrap()).kubeconfig()
        };
        let found = of(&[&missing, &there]).unwrap();
        assert_eq!(found.current_context.as_deref(), Some("here"));
        assert!(of(&[&missing]).is_err());
    }

    #[test]
    fn a_kubeconfig_that_is_broken_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        for broken in [
            "users:\n- name: a\n  user:\n    token: planted\n    username: [\n",
            "users:\n- name: a\n  user:\n    token: [planted]\n",
            "planted\n",
        ] {
            std::fs::write(&file, broken).unwrap();
            let said = Origin::Flag(file.clone()).kubeconfig().unwrap_err();
            assert!(!said.to_string().contains("planted"), "{said}");
        }
    }
}
