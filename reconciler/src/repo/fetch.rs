//! One fetch: connect, ask for the one branch, take its objects, and say in one error what went wrong.

use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;

use fabrik_core::id::CommitId;
use gix::protocol::transport::client::blocking_io::Transport;
use gix::remote::{Connection, Direction, fetch, ref_map};

use super::upstream::{self, Stop};
use super::{Inner, Location, RepoError, clone, config};

/// From so many packs on, a fresh clone takes the old one's place.
const MAX_PACKS: usize = 50;

impl Inner {
    /// Fetches into the clone, or into a first one. A damaged clone is replaced by a fresh one, once.
    pub(super) fn fetch(&self, stop: &Stop) -> Result<CommitId, RepoError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let repo = match self.clones.open_current() {
            Ok(repo) => repo,
            Err(RepoError::NotFetched { .. }) => return self.clone_afresh(stop),
            Err(error @ RepoError::Damaged { .. }) => return self.replace_damaged(&error, stop),
            Err(error) => return Err(error),
        };
        match self.fetch_into(&repo, stop) {
            Ok(head) => {
                if clone::packs(&repo) >= MAX_PACKS {
                    self.compact(&repo, stop);
                }
                Ok(head)
            }
            Err(error @ RepoError::Damaged { .. }) => self.replace_damaged(&error, stop),
            Err(error) => Err(error),
        }
    }

    pub(super) fn pin(&self, commit: &CommitId) -> Result<(), RepoError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        clone::pin(&self.clones.open_current()?, commit)
    }

    fn clone_afresh(&self, stop: &Stop) -> Result<CommitId, RepoError> {
        let fresh = self.clones.start()?;
        match self.fetch_into(&fresh, stop) {
            Ok(head) => {
                self.clones.finish()?;
                Ok(head)
            }
            Err(error) => {
                self.clones.abandon()?;
                Err(error)
            }
        }
    }

    /// The damaged clone stays until the fresh one is whole, and what can be saved of it is the pinned commit's id.
    fn replace_damaged(&self, error: &RepoError, stop: &Stop) -> Result<CommitId, RepoError> {
        tracing::warn!(%error, "clone is damaged, making a fresh one");
        let old = self.clones.open_current();
        let pinned = old.and_then(|old| clone::pinned(&old)).ok().flatten();
        let head = self.clone_afresh(stop)?;
        if let Some(pinned) = pinned {
            let fresh = self.clones.open_current()?;
            if let Err(error) = clone::pin(&fresh, &pinned) {
                tracing::warn!(%error, "the fresh clone lacks the commit in force");
            }
        }
        Ok(head)
    }

    /// Makes one pack of many by cloning afresh. The old clone stays when the commit in force is in it alone, because
    /// upstream was rewritten; and whenever something fails, for the fetch itself went well.
    fn compact(&self, old: &gix::Repository, stop: &Stop) {
        let attempt = || {
            let pinned = clone::pinned(old)?;
            let fresh = self.clones.start()?;
            self.fetch_into(&fresh, stop)?;
            if let Some(pinned) = &pinned {
                clone::pin(&fresh, pinned)?;
            }
            self.clones.finish()
        };
        if let Err(error) = attempt() {
            tracing::info!(%error, "kept the clone with its many packs");
            self.clones.abandon().ok();
        }
    }

    fn fetch_into(&self, repo: &gix::Repository, stop: &Stop) -> Result<CommitId, RepoError> {
        // With force: a rewind has to arrive, so that admission can refuse it in its own words.
        let refspec = format!("+refs/heads/{}:{}", self.config.branch, clone::UPSTREAM_REF);
        let local = |error: gix::Error| clone::damaged(repo, &error);
        let url = match &self.location {
            Location::Http(url) | Location::Ssh(url) => url.clone(),
            Location::Local(_) => gix::url::parse(self.config.url.as_str()).map_err(local)?,
        };
        let remote = repo
            .remote_at_without_url_rewrite(url)
            .and_then(|remote| remote.with_refspecs([refspec.as_str()], Direction::Fetch))
            .map_err(local)?
            .with_fetch_tags(fetch::Tags::None);
        match &self.location {
            Location::Http(url) => {
                let mut connection = remote
                    .connect(Direction::Fetch)
                    .map_err(|e| self.explain(&e, stop))?;
                self.authenticate(&mut connection, url)?;
                self.receive(connection, stop)
            }
            Location::Ssh(url) => {
                let command = upstream::ssh(&self.config, url)?;
                let transport = self.start("ssh", command, &url.path.to_string(), stop)?;
                self.receive(remote.to_connection_with_transport(transport), stop)
            }
            Location::Local(path) => {
                self.check_local(path)?;
                let command = upstream::local(path);
                let transport = self.start("git", command, &path.display().to_string(), stop)?;
                self.receive(remote.to_connection_with_transport(transport), stop)
            }
        }
    }

    /// Answers gix's question for credentials: our token for the host it was given for, else nothing. Without this
    /// gix would look for a terminal.
    fn authenticate<T: Transport>(
        &self,
        connection: &mut Connection<'_, '_, '_, T>,
        url: &gix::Url,
    ) -> Result<(), RepoError> {
        use gix::credentials::helper::Action;
        let token = self
            .config
            .token_file
            .as_deref()
            .map(config::read_token)
            .transpose()?;
        let (scheme, host, port) = (url.scheme.clone(), url.host().map(str::to_owned), url.port);
        let user = url.user().unwrap_or("git").to_owned();
        connection.set_credentials(move |action| {
            let Action::Get(context) = action else {
                return Ok(None);
            };
            let asked = context
                .url
                .as_ref()
                .and_then(|asked| gix::url::parse(asked).ok());
            let same_host = asked.is_some_and(|asked| {
                asked.scheme == scheme && asked.host() == host.as_deref() && asked.port == port
            });
            let password = token.as_ref().and_then(|token| token.expose_str());
            Ok(password
                .filter(|_| same_host)
                .map(|password| gix::credentials::protocol::Outcome {
                    identity: gix::sec::identity::Account {
                        username: user.clone(),
                        password: password.to_owned(),
                        oauth_refresh_token: None,
                    },
                    next: gix::credentials::helper::NextAction::from(context),
                }))
        });
        Ok(())
    }

    fn start(
        &self,
        program: &'static str,
        command: Command,
        path: &str,
        stop: &Stop,
    ) -> Result<impl Transport + use<>, RepoError> {
        stop.converse(command, path)
            .map_err(|error| RepoError::Program {
                program,
                url: self.location.to_string(),
                reason: error.to_string(),
            })
    }

    fn receive<T: Transport>(
        &self,
        connection: Connection<'_, '_, '_, T>,
        stop: &Stop,
    ) -> Result<CommitId, RepoError> {
        let outcome = connection
            .prepare_fetch(gix::progress::Discard, ref_map::Options::default())
            .and_then(|prepared| prepared.receive(gix::progress::Discard, stop.flag()))
            .map_err(|error| self.explain(&error, stop))?;
        let head = outcome.ref_map.mappings.iter().find_map(|mapping| {
            mapping
                .remote
                .as_id()
                .and_then(|id| id.to_string().parse().ok())
        });
        head.ok_or_else(|| self.branch_missing())
    }

    fn check_local(&self, path: &Path) -> Result<(), RepoError> {
        match std::fs::metadata(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(RepoError::NotARepository {
                url: self.location.to_string(),
                detail: error.to_string(),
            }),
        }
    }

    fn branch_missing(&self) -> RepoError {
        RepoError::BranchMissing {
            url: self.location.to_string(),
            branch: self.config.branch.clone(),
        }
    }

    /// Finds the cause of a failed fetch: in what the child said on stderr, else in gix' error.
    fn explain(&self, error: &gix::Error, stop: &Stop) -> RepoError {
        let stderr = stop.last_words();
        let detail = clone::chain(error);
        self.explain_stderr(&stderr)
            .unwrap_or_else(|| self.explain_gix(error, detail, stderr))
    }

    fn explain_stderr(&self, stderr: &str) -> Option<RepoError> {
        let says = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
        let url = self.location.to_string();
        let known_hosts = self.config.known_hosts_file.clone().unwrap_or_default();
        let detail = stderr.to_owned();
        if says(&["IDENTIFICATION HAS CHANGED"]) {
            Some(RepoError::HostKeyChanged {
                url,
                known_hosts,
                stderr: detail,
            })
        } else if says(&["Host key verification failed", "host key is known"]) {
            Some(RepoError::HostKeyUnknown {
                url,
                known_hosts,
                stderr: detail,
            })
        } else if says(&["Permission denied (", "Load key", "UNPROTECTED PRIVATE KEY"]) {
            Some(RepoError::NotAccepted {
                url,
                detail,
                remedy: "Add the public half of repository.deploy-key-file to the repository's deploy keys, to read",
            })
        } else if says(&[
            "not appear to be a git repository",
            "epository not found",
            "not a git repository",
        ]) {
            Some(RepoError::NotARepository { url, detail })
        } else {
            None
        }
    }

    fn explain_gix(&self, error: &gix::Error, detail: String, stderr: String) -> RepoError {
        let url = self.location.to_string();
        let timed_out = error.iter_errors().any(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut)
        });
        if error.is_unauthenticated()
            || error.is_permission_denied()
            || detail.contains("status 403")
            || detail.contains("credentials in clear text")
        {
            let remedy = match (&self.location, &self.config.token_file) {
                (Location::Http(_), None) => {
                    "Name a file with an access token as repository.token-file, or use an ssh URL with a deploy key"
                }
                (Location::Http(_), Some(_)) => {
                    "Check that the token in repository.token-file is valid and may read the repository, and that the URL is https"
                }
                _ => "Check who may read the repository",
            };
            RepoError::NotAccepted {
                url,
                detail,
                remedy,
            }
        } else if detail.contains("None of the refspec") {
            self.branch_missing()
        } else if timed_out {
            RepoError::Timeout {
                url,
                seconds: super::FETCH_DEADLINE.as_secs(),
                stderr: detail,
            }
        } else if detail.contains("status 404") {
            RepoError::NotARepository { url, detail }
        } else if error.is_corrupted() {
            RepoError::Damaged {
                dir: std::path::PathBuf::from(url),
                reason: detail,
            }
        } else {
            let detail = if stderr.is_empty() { detail } else { stderr };
            RepoError::Unreachable { url, detail }
        }
    }
}
