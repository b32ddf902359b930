//! A machine of the user's own, from a person's laptop: reached by SSH under its pinned host key, looked at, and installed.
//!
//! Nothing is asked of a machine, and nothing told it, that shows another host key.

mod look;
mod put;
mod ssh;

use std::path::PathBuf;

use fabrik_core::id::MachineName;
use fabrik_core::machines::means::Unfit;

pub use self::look::look;
pub use self::put::{put, tell, when_it_answers};
pub use self::ssh::Pinned;
use crate::node::identify::{IDENTITY, STATE_DIR};

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error(
        "{machine} ({address}) shows another host key, {shown}, and cluster.toml pins {pinned}: nothing was sent. Either \
         somebody else answers there, or the machine was installed anew: then compare with its own console, `ssh-keygen -lf \
         /etc/ssh/ssh_host_ed25519_key.pub`, and correct `host-key`"
    )]
    HostKey {
        machine: String,
        address: String,
        shown: String,
        pinned: String,
    },
    #[error("{machine} ({address}) can't be reached by SSH: {said}")]
    Unreachable {
        machine: String,
        address: String,
        said: String,
    },
    #[error(
        "{machine} is a node of some cluster, or was it, and can't say of which: /{STATE_DIR}/{IDENTITY} reads `{said}`. \
         Nothing was changed on it. Mend its disk, or install another Linux on it if nothing there is needed"
    )]
    Identity { machine: MachineName, said: String },
    #[error("{machine} {why}. Nothing was changed on it")]
    Unfit { machine: MachineName, why: Unfit },
    #[error("{machine}: {what} failed: {said}")]
    Remote {
        machine: String,
        what: &'static str,
        said: String,
    },
    #[error("{program} can't be run: {source}. Install it and have it in PATH")]
    Missing {
        program: &'static str,
        source: std::io::Error,
    },
    #[error("{path}: {source}", path = path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{program} failed (see above), so the machine is not installed. The same command goes on"
    )]
    Program { program: &'static str },
}

impl MachineError {
    /// For what was found on a machine.
    pub fn unfit(machine: &MachineName) -> impl FnOnce(Unfit) -> Self {
        let machine = machine.clone();
        move |why| Self::Unfit { machine, why }
    }

    fn missing(program: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Missing { program, source }
    }

    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
