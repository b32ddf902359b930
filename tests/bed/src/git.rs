//! Git servers of a bed: one bare repository, reachable by local path, by HTTP (`git http-backend`)
//! and by SSH (a real sshd), and a work tree that pushes to it with the real `git`.

mod http;
mod ssh;
mod worktree;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::parts::Parts;
use crate::process::Dirs;
pub use http::Webhook;
pub(crate) use ssh::make_host_key;
pub use worktree::Worktree;

pub(crate) const HTTP_PORT: u16 = 8081;
pub(crate) const SSH_PORT: u16 = 2222;

/// The repository and its servers.
pub struct Git {
    /// The folder that the HTTP server exports.
    root: PathBuf,
    address: Ipv4Addr,
    http: http::Server,
    ssh: ssh::Server,
    worktree: Worktree,
}

impl Git {
    pub async fn start(
        dir: &Path,
        address: Ipv4Addr,
        parts: &Arc<Parts>,
        dirs: &Dirs,
    ) -> Result<Self> {
        let root = dir.join("git");
        let bare = root.join("cluster.git");
        fs::create_dir_all(&root)?;
        worktree::git(
            &root,
            &[
                "init",
                "--bare",
                "--quiet",
                "--initial-branch=main",
                "cluster.git",
            ],
        )?;
        worktree::git(&bare, &["config", "http.receivepack", "true"])?;
        let http_address = SocketAddr::from((address, HTTP_PORT));
        let http = http::Server::start(http_address, &root, &parts.git_http_backend).await?;
        let ssh_address = SocketAddr::from((address, SSH_PORT));
        let ssh = ssh::Server::start(&dir.join("ssh"), ssh_address, &parts.sshd, dirs)?;
        let remote = format!("http://{http_address}/cluster.git");
        let worktree = Worktree::create(&dir.join("worktree"), &remote)?;
        Ok(Self {
            root,
            address,
            http,
            ssh,
            worktree,
        })
    }

    pub fn worktree(&self) -> &Worktree {
        &self.worktree
    }

    /// The bare repository.
    pub fn path(&self) -> PathBuf {
        self.root.join("cluster.git")
    }

    pub fn http_url(&self) -> String {
        format!("http://{}:{HTTP_PORT}/cluster.git", self.address)
    }

    pub fn ssh_url(&self) -> String {
        let user = self.ssh.user();
        format!(
            "ssh://{user}@{}:{SSH_PORT}{}",
            self.address,
            self.path().display()
        )
    }

    /// The host key of the SSH server, as ssh wants it.
    pub fn known_hosts(&self) -> &Path {
        self.ssh.known_hosts()
    }

    /// Lets the holder of this key in, besides those who are let in already.
    pub fn authorize(&self, public_key: &str) -> Result<()> {
        self.ssh.authorize(public_key)
    }

    /// After each push by HTTP, these are called as GitHub does it.
    pub fn set_webhooks(&self, webhooks: Vec<Webhook>) {
        self.http.set_webhooks(webhooks);
    }

    /// The servers are gone until [`Git::resume_http`]: connections are refused.
    pub fn pause_http(&self) {
        self.http.pause();
    }

    pub fn resume_http(&self) {
        self.http.resume();
    }
}
