//! The `[repository]` table of fabrik's configuration file: where the cluster's repository is, and how to get in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RepoError;

/// The `[repository]` table. Credentials are named by file, so that the configuration itself holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RepositoryConfig {
    /// `https://`, `http://`, `ssh://`, `user@host:path`, `file://` or a local path.
    pub url: String,
    #[serde(default = "default_branch")]
    pub branch: String,
    /// SSH only: the private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy_key_file: Option<PathBuf>,
    /// SSH only: the pinned host keys, in `known_hosts` format. A host that is not in it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts_file: Option<PathBuf>,
    /// HTTPS only: a file that holds an access token. Its user is the URL's, or `git`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The time between two fetches when nobody asks for one.
    #[serde(default = "default_poll", with = "crate::config::duration")]
    pub poll: Duration,
}

/// Where a repository is, told by its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `http://` and `https://`.
    Http(gix::Url),
    /// `ssh://` and `user@host:path`.
    Ssh(gix::Url),
    /// `file://` and paths.
    Local(PathBuf),
}

impl RepositoryConfig {
    /// A repository at `url`, all else by default.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            branch: default_branch(),
            deploy_key_file: None,
            known_hosts_file: None,
            token_file: None,
            poll: default_poll(),
        }
    }

    /// What kind of place the URL names.
    ///
    /// # Errors
    /// It is no URL, of a scheme that fabrik does not speak, holds a password, or lacks what its scheme needs.
    pub fn location(&self) -> Result<Location, RepoError> {
        self.check_branch()?;
        let invalid = |problem: String, remedy: &str| RepoError::Config {
            field: "url",
            problem,
            remedy: remedy.to_owned(),
        };
        let url = gix::url::parse(self.url.as_str()).map_err(|error| {
            // The text may hold a password, so it is not repeated.
            let reason = error.to_string().replace(&self.url, "it");
            invalid(
                format!("is no git URL ({reason})"),
                "Write https://…, ssh://…, user@host:path or a path",
            )
        })?;
        if url.password().is_some() {
            return Err(invalid(
                "holds a password".to_owned(),
                "Take it out, put it in a file and name that as repository.token-file",
            ));
        }
        if holds_lone_user(&url) && self.token_file.is_none() {
            return Err(invalid(
                "holds a user name for which there is no token, so it may be a token itself"
                    .to_owned(),
                "Take it out, put the token in a file and name that as repository.token-file",
            ));
        }
        match &url.scheme {
            gix::url::Scheme::Http | gix::url::Scheme::Https => Ok(Location::Http(url)),
            gix::url::Scheme::Ssh if self.known_hosts_file.is_none() => Err(RepoError::Config {
                field: "known-hosts-file",
                problem: "is missing, and an ssh host is trusted only by its pinned key".to_owned(),
                remedy: "Write the host's public key in a file in known_hosts format and name it"
                    .to_owned(),
            }),
            gix::url::Scheme::Ssh => Ok(Location::Ssh(url)),
            gix::url::Scheme::File => match gix::path::from_bstr(&url.path) {
                Ok(path) => Ok(Location::Local(path.into_owned())),
                Err(error) => Err(invalid(format!("is no path ({error})"), "Write another")),
            },
            other => Err(invalid(
                format!("has the scheme `{other}`"),
                "fabrik speaks https, http, ssh and file",
            )),
        }
    }

    /// A branch is a plain ref name: it goes into a refspec, where `*` and `:` mean something.
    fn check_branch(&self) -> Result<(), RepoError> {
        let full = format!("refs/heads/{}", self.branch);
        match gix::refs::FullName::try_from(full) {
            Ok(_) => Ok(()),
            Err(error) => Err(RepoError::Config {
                field: "branch",
                problem: format!("`{}` is no branch name ({error})", self.branch),
                remedy: "Write the name as `git branch` shows it".to_owned(),
            }),
        }
    }
}

/// Whether it is a URL of HTTP with a user's name and no password: forges take a token in that place, too.
pub fn holds_lone_user(url: &gix::Url) -> bool {
    matches!(url.scheme, gix::url::Scheme::Http | gix::url::Scheme::Https)
        && url.user().is_some()
        && url.password().is_none()
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) | Self::Ssh(url) => write!(f, "{}", url.to_bstring()),
            Self::Local(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The content of a file that holds one secret word, without the line's end.
pub(super) fn read_token(path: &Path) -> Result<crate::secrets::Secret, RepoError> {
    let content = std::fs::read(path).map_err(|error| RepoError::CredentialFile {
        field: "token-file",
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(crate::secrets::Secret::new(content).trimmed())
}

fn default_branch() -> String {
    "main".to_owned()
}

const fn default_poll() -> Duration {
    Duration::from_secs(15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(url: &str) -> Result<Location, RepoError> {
        let mut config = RepositoryConfig::at(url);
        config.known_hosts_file = Some("/known".into());
        config.location()
    }

    #[test]
    fn a_url_says_what_kind_of_place_it_is() {
        for url in ["https://git.example/a.git", "http://127.0.0.1:80/a"] {
            assert!(matches!(location(url), Ok(Location::Http(_))), "{url}");
        }
        for url in [
            "ssh://git@git.example:2222/a.git",
            "git@git.example:team/a.git",
        ] {
            assert!(matches!(location(url), Ok(Location::Ssh(_))), "{url}");
        }
        for url in ["/srv/a.git", "file:///srv/a.git"] {
            assert_eq!(location(url).unwrap(), Location::Local("/srv/a.git".into()));
        }
    }

    #[test]
    fn a_url_with_a_password_is_refused_without_repeating_it() {
        let error = location("https://me:hunter2@git.example/a.git")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("token-file") && !error.contains("hunter2"),
            "{error}"
        );
        for url in ["ext::sh -c evil", "", "ftp://host/a", "git://host/a"] {
            assert!(location(url).is_err(), "{url} was let in");
        }
    }

    #[test]
    fn a_user_without_a_token_may_be_one() {
        let mut config = RepositoryConfig::at("https://hunter2@git.example/a.git");
        let error = config.location().unwrap_err().to_string();
        assert!(
            error.contains("may be a token itself") && !error.contains("hunter2"),
            "{error}"
        );
        config.token_file = Some("/token".into());
        config.location().unwrap();
    }

    #[test]
    fn an_ssh_host_needs_a_pinned_key_and_a_branch_needs_a_name() {
        let error = RepositoryConfig::at("git@git.example:a.git")
            .location()
            .unwrap_err();
        assert!(error.to_string().contains("known-hosts-file"), "{error}");
        for branch in ["", "*", "a b", "a:b", "../x"] {
            let mut config = RepositoryConfig::at("/srv/a.git");
            config.branch = branch.to_owned();
            assert!(config.location().is_err(), "`{branch}` was let in");
        }
    }

    #[test]
    fn the_table_has_defaults_and_no_unknown_keys() {
        let config: RepositoryConfig = serde_json::from_value(serde_json::json!({
            "url": "/srv/a.git", "poll": "2m"
        }))
        .unwrap();
        assert_eq!(config.branch, "main");
        assert_eq!(config.poll, Duration::from_mins(2));
        let unknown = serde_json::json!({"url": "/srv/a.git", "tokn-file": "x"});
        assert!(serde_json::from_value::<RepositoryConfig>(unknown).is_err());
    }
}
