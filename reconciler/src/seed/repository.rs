//! The repository as a seed needs it: pushed, and to be read by servers, with a key of their own and a host key that is known
//! beforehand.

use std::path::{Path, PathBuf};
use std::process::Command;

use fabrik_core::id::CommitId;

use super::SeedError;
use super::options::SeedOptions;
use super::state::State;
use crate::cli::git;
use crate::gate::SPEC_FILE;
use crate::repo::{Location, RepoError, Repository, RepositoryConfig, holds_lone_user};

/// Where the repository is, for servers.
#[derive(Debug, Clone)]
pub struct Place {
    pub url: String,
    pub branch: String,
    /// In known_hosts' format, for SSH.
    pub known_hosts: Option<String>,
    pub token_file: Option<PathBuf>,
}

/// What `git` says of the checkout.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// `None` where no branch is checked out.
    pub branch: Option<String>,
    /// Where it is pushed to.
    pub pushed_to: Option<String>,
    pub is_clean: bool,
}

/// A folder that is no cluster's, or was never committed, is told so in these words, and not in those of who reads commits.
pub fn must_be_committed(dir: &Path) -> Result<(), SeedError> {
    let here = dir.to_owned();
    if !dir.join(SPEC_FILE).is_file() {
        return Err(RepoError::NotARoot { dir: here }.into());
    }
    match git::has_commit(dir)? {
        None => Err(SeedError::NoRepository { dir: here }),
        Some(false) => Err(SeedError::NoCommit { dir: here }),
        Some(true) => Ok(()),
    }
}

pub fn checkout(dir: &Path) -> Result<Checkout, SeedError> {
    let branch = git::branch(dir)?;
    let pushed_to = match &branch {
        Some(branch) => git::pushed_to(dir, branch)?,
        None => None,
    };
    Ok(Checkout {
        pushed_to,
        is_clean: git::is_clean(dir)?,
        branch,
    })
}

/// Why servers can't be told where the repository is, if they can't: one sentence.
pub fn place(options: &SeedOptions, checkout: &Checkout) -> Result<Place, String> {
    let Some(branch) = checkout.branch.clone() else {
        return Err(
            "no branch is checked out, so there is none to follow. Check one out".to_owned(),
        );
    };
    let mut urls = options.repository.iter().chain(&checkout.pushed_to);
    let has_token = options.repository_token_file.is_some();
    if urls.any(|url| may_hold_secret(url, has_token)) {
        return Err(
            "the repository's URL holds a password, or a user's name that may be a token, and others would see it. Take it out \
             (`git remote set-url`): git keeps it elsewhere (`git help credentials`), and servers get a token of their own by \
             --repository-token-file"
                .to_owned(),
        );
    }
    let url = options.repository.clone().or(checkout.pushed_to.clone());
    let Some(url) = url else {
        return Err(format!(
            "{branch} is pushed nowhere. Push it (`git push --set-upstream origin {branch}`), or name the repository by \
             --repository"
        ));
    };
    Ok(Place {
        known_hosts: None,
        token_file: options.repository_token_file.clone(),
        url,
        branch,
    })
}

/// A user's name is one where there is a token to go with it.
fn may_hold_secret(url: &str, has_token: bool) -> bool {
    gix::url::parse(url)
        .is_ok_and(|url| url.password().is_some() || holds_lone_user(&url) && !has_token)
}

impl Place {
    /// # Errors
    /// One sentence: no server could read it.
    pub fn must_be_elsewhere(&self) -> Result<(), String> {
        match RepositoryConfig::at(self.url.clone()).location() {
            Ok(Location::Local(folder)) => Err(format!(
                "{} is a folder of this machine, and no server can read it. Push it to a git host, or name the one that has it by \
                 --repository",
                folder.display()
            )),
            _ => Ok(()),
        }
    }

    /// Finds the host keys of the git server, where it is reached by SSH.
    ///
    /// # Errors
    /// One sentence: nothing is known of that host, and nothing is learnt from itself.
    pub fn know_host(&mut self, named: Option<&Path>) -> Result<(), String> {
        let Some(host) = self.ssh_host() else {
            return Ok(());
        };
        let known = match named {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|error| format!("{}: {error}", file.display()))?,
            None => known_to_person(&host)?,
        };
        if known.trim().is_empty() {
            return Err(format!(
                "the host key of {host} is not known on this machine, and it is not asked for its own. Connect once by `ssh` \
                 and compare the fingerprint with the one that its operator publishes, or name a file by --known-hosts"
            ));
        }
        self.known_hosts = Some(known);
        Ok(())
    }

    /// As `known_hosts` calls the host: `[host]:port` where the port is not the usual one.
    fn ssh_host(&self) -> Option<String> {
        let mut config = RepositoryConfig::at(self.url.clone());
        // Whether it is the right file is not asked yet.
        config.known_hosts_file = Some(PathBuf::new());
        let Ok(Location::Ssh(url)) = config.location() else {
            return None;
        };
        let host = url.host()?.to_owned();
        Some(match url.port {
            Some(port) if port != 22 => format!("[{host}]:{port}"),
            _ => host,
        })
    }

    pub fn is_ssh(&self) -> bool {
        self.ssh_host().is_some()
    }

    /// Reads the repository as servers will: the head of the branch.
    ///
    /// # Errors
    /// The outer one is no fault of the repository.
    pub async fn head(
        &self,
        state: &State,
        deploy_key: &Path,
    ) -> Result<Result<CommitId, RepoError>, SeedError> {
        let mut config = RepositoryConfig::at(self.url.clone());
        config.branch.clone_from(&self.branch);
        config.token_file.clone_from(&self.token_file);
        if let Some(known_hosts) = &self.known_hosts {
            config.known_hosts_file = Some(state.git_hosts(known_hosts)?);
            config.deploy_key_file = Some(deploy_key.to_owned());
        }
        let dir = tempfile::tempdir()?;
        let repository = match Repository::open(config, dir.path()) {
            Ok(repository) => repository,
            Err(error) => return Ok(Err(error)),
        };
        Ok(repository.fetch().await)
    }

    /// Where a person adds a key that may read, at the forge that the URL names.
    pub fn where_to_add_key(&self) -> String {
        let (host, path) = self.host_and_path();
        let base = format!("https://{host}/{path}");
        match host.as_str() {
            "github.com" => format!("{base}/settings/keys/new (leave \"Allow write access\" off)"),
            host if host.contains("gitlab") => {
                format!("{base}/-/settings/repository, \"Deploy keys\"")
            }
            "codeberg.org" => format!("{base}/settings/keys"),
            host if host.contains("gitea") || host.contains("forgejo") => {
                format!("{base}/settings/keys")
            }
            _ => format!("{host}: the repository's settings, \"Deploy keys\", for reading alone"),
        }
    }

    fn host_and_path(&self) -> (String, String) {
        let host = self.ssh_host().unwrap_or_default();
        let host = host.trim_start_matches('[');
        let host = host.split("]:").next().unwrap_or_default().to_owned();
        let after = self.url.split_once(&host).map_or("", |(_, rest)| rest);
        let path = after
            .trim_start_matches([':', '/'])
            .trim_end_matches(".git");
        (host, path.to_owned())
    }
}

/// What the person's own known_hosts have of a host, hashed names among them.
fn known_to_person(host: &str) -> Result<String, String> {
    let mut keygen = Command::new("ssh-keygen");
    let output = keygen.args(["-F", host]).output();
    let output = output.map_err(|error| {
        format!("ssh-keygen can't be run: {error}. Install OpenSSH and have it in PATH")
    })?;
    let told = String::from_utf8_lossy(&output.stdout);
    let lines = told.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn at(url: &str) -> Place {
        Place {
            url: url.to_owned(),
            branch: "main".to_owned(),
            known_hosts: None,
            token_file: None,
        }
    }

    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        options: SeedOptions,
    }

    #[test]
    fn a_folder_of_the_laptop_is_no_place_for_servers() {
        for (url, is_folder) in [
            ("/srv/demo.git", true),
            ("file:///srv/demo.git", true),
            ("git@git.example.com:demo.git", false),
            ("https://git.example.com/demo.git", false),
        ] {
            assert_eq!(at(url).must_be_elsewhere().is_err(), is_folder, "{url}");
        }
    }

    #[test]
    fn a_password_in_a_url_goes_nowhere() {
        let with_password = "https://me:hunter2@git.example.com/demo.git".to_owned();
        let checkout = |pushed_to: &str| Checkout {
            branch: Some("main".to_owned()),
            pushed_to: Some(pushed_to.to_owned()),
            is_clean: true,
        };
        let options = |repository: Option<&String>| {
            let words = repository.map(|url| ["--repository", url]);
            let words = words.into_iter().flatten();
            Words::parse_from(["seed"].into_iter().chain(words)).options
        };
        let plain = "https://git.example.com/demo.git";
        for (named, pushed_to) in [
            (None, "https://hunter2@git.example.com/demo.git"),
            (None, with_password.as_str()),
            (Some(&plain.to_owned()), with_password.as_str()),
            (Some(&with_password), plain),
        ] {
            let said = place(&options(named), &checkout(pushed_to)).unwrap_err();
            assert!(
                said.contains("holds a password") && !said.contains("hunter2"),
                "{said}"
            );
        }
        let by_ssh = "git@git.example.com:demo.git";
        for url in [plain, by_ssh] {
            assert_eq!(place(&options(None), &checkout(url)).unwrap().url, url);
        }
        let with_user = "https://deploy-1@git.example.com/demo.git";
        let words = ["seed", "--repository-token-file", "token"];
        let options = Words::parse_from(words).options;
        let place = place(&options, &checkout(with_user));
        assert_eq!(place.unwrap().url, with_user);
    }

    #[test]
    fn a_host_is_called_as_known_hosts_calls_it() {
        for (url, expected) in [
            ("git@git.example.com:ops/demo.git", Some("git.example.com")),
            (
                "ssh://git@git.example.com/ops/demo.git",
                Some("git.example.com"),
            ),
            (
                "ssh://git@127.0.0.1:2222/srv/demo.git",
                Some("[127.0.0.1]:2222"),
            ),
            ("https://git.example.com/ops/demo.git", None),
            ("/srv/demo.git", None),
        ] {
            assert_eq!(at(url).ssh_host().as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_person_is_told_where_their_forge_takes_the_key() {
        for (url, expected) in [
            (
                "git@github.com:ops/demo.git",
                "https://github.com/ops/demo/settings/keys/new",
            ),
            (
                "ssh://git@gitlab.example.com:2222/ops/demo",
                "https://gitlab.example.com/",
            ),
            (
                "git@git.example.com:demo.git",
                "git.example.com: the repository's settings",
            ),
        ] {
            let said = at(url).where_to_add_key();
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn a_host_of_which_nothing_is_known_is_not_asked_for_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("known_hosts");
        std::fs::write(&empty, "\n").unwrap();
        let mut place = at("git@git.example.com:demo.git");
        let said = place.know_host(Some(&empty)).unwrap_err();
        assert!(said.contains("git.example.com is not known"), "{said}");
        std::fs::write(&empty, "git.example.com ssh-ed25519 AAAA\n").unwrap();
        place.know_host(Some(&empty)).unwrap();
        let known = place.known_hosts.unwrap();
        assert_eq!(known, "git.example.com ssh-ed25519 AAAA\n");
        at("/srv/demo.git").know_host(None).unwrap();
    }
}
