//! What a person says on the command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use fabrik_core::id::PoolName;

use crate::cluster::found::DEFAULT_HETZNER_ENDPOINT;
use crate::config;

/// Brings a cluster up at Hetzner. Cut off anywhere, the same command goes on.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct SeedOptions {
    /// The repository's root, with what was pushed checked out.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// The disk of new servers, raw or compressed by zstd; once more as POOL=FILE for a pool with another system. Without any,
    /// Nix builds them: here, or, where it can't, on the temporary server.
    #[arg(long = "image", value_name = "[POOL=]FILE")]
    pub images: Vec<ImageFile>,
    /// Has the temporary server build the images, even if this laptop could.
    #[arg(long, conflicts_with = "images")]
    pub build_on_server: bool,
    /// Makes the images of servers and pools, and nothing else: to renew them.
    #[arg(long)]
    pub image_only: bool,
    /// Goes on where the rescue system can't prove its host key: an image is then as good as the network that it went over.
    #[arg(long)]
    pub trust_rescue: bool,
    /// Removes what a seed has made, once the cluster's name was typed: all of this cluster's at Hetzner but its volumes, and
    /// what the laptop keeps of it.
    #[arg(long, conflicts_with = "image_only")]
    pub undo: bool,
    /// Where servers fetch the repository [default: where the checked-out branch is pushed to].
    #[arg(long, value_name = "URL")]
    pub repository: Option<String>,
    /// Host keys of the git server, for SSH [default: what your own known_hosts has of it].
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,
    /// A file with an access token of the git server, for HTTPS.
    #[arg(long, value_name = "FILE")]
    pub repository_token_file: Option<PathBuf>,
    /// Your age key; else where `sops` looks for it.
    #[arg(long, value_name = "FILE")]
    pub age_key_file: Option<PathBuf>,
    /// Agrees to the price beforehand, by the cluster's name.
    #[arg(long, value_name = "CLUSTER")]
    pub yes: Option<String>,
    /// Where the kubeconfig goes [default: beside what the laptop keeps of the cluster].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// How long the cluster may take to carry out the commit.
    #[arg(long, default_value = "30m", value_parser = config::duration::parse)]
    pub timeout: Duration,
    /// How long a machine may take from power on until it lets this laptop in.
    #[arg(long, default_value = "15m", value_parser = config::duration::parse, hide = true)]
    pub boot_limit: Duration,
    /// How long Hetzner may be at work with a server; with a snapshot eight times that.
    #[arg(long, default_value = "15m", value_parser = config::duration::parse, hide = true)]
    pub hetzner_limit: Duration,
    /// Hetzner's API.
    #[arg(long, value_name = "URL", default_value = DEFAULT_HETZNER_ENDPOINT, hide = true)]
    pub hetzner_endpoint: String,
    /// Where new servers and rescue systems have SSH.
    #[arg(long, value_name = "PORT", default_value_t = 22, hide = true)]
    pub ssh_port: u16,
}

impl SeedOptions {
    /// For whoever gets its keys from here; `None` for Hetzner's own.
    pub fn other_endpoint(&self) -> Option<&str> {
        (self.hetzner_endpoint != DEFAULT_HETZNER_ENDPOINT)
            .then_some(self.hetzner_endpoint.as_str())
    }
}

/// A disk, and the pool whose system is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    pub pool: PoolName,
    pub file: PathBuf,
}

impl FromStr for ImageFile {
    type Err = std::convert::Infallible;

    /// What stands before `=` is a pool where it can be one; a file may have that sign in its name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = text.split_once('=');
        let named = named.and_then(|(pool, file)| Some((pool.parse().ok()?, file)));
        let (pool, file) = named.unwrap_or((PoolName::servers(), text));
        Ok(Self {
            pool,
            file: file.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_servers_unless_a_pool_is_named() {
        for (text, pool, file) in [
            ("disk.img", "servers", "disk.img"),
            ("workers=disk.img.zst", "workers", "disk.img.zst"),
            ("/a/b=c.img", "servers", "/a/b=c.img"),
        ] {
            let Ok(image) = text.parse::<ImageFile>();
            assert_eq!(image.pool.as_str(), pool, "{text}");
            assert_eq!(image.file.to_str(), Some(file), "{text}");
        }
    }
}
