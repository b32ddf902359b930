//! The node's own age identity. It is made once, and never leaves the machine.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use fabrik_core::id::{AgeRecipient, InvalidId};
use zeroize::Zeroizing;

use crate::node::NodeError;
use crate::secrets::Secret;

/// In the folder of the agent's state.
const FILE: &str = "age.key";

/// The identity, made first where there is none. For its owner alone (a temporary file is 0600), and on the disk before
/// anybody is told whom it is for.
pub fn ensure(dir: &Path) -> Result<Identity, NodeError> {
    let path = dir.join(FILE);
    if let Some(identity) = read(&path)? {
        return Ok(identity);
    }
    let new = Identity::generate();
    let text = new.to_string();
    let text = Zeroizing::new(format!(
        "# public key: {}\n{}\n",
        new.to_public(),
        text.expose_secret()
    ));
    write(dir, &path, text.as_bytes()).map_err(NodeError::io(&path))?;
    // What is on the disk counts: two may have begun at once.
    read(&path)?.ok_or_else(|| NodeError::io(&path)(ErrorKind::NotFound.into()))
}

pub fn recipient(identity: &Identity) -> Result<AgeRecipient, InvalidId> {
    identity.to_public().to_string().parse()
}

fn read(path: &Path) -> Result<Option<Identity>, NodeError> {
    let content = match fs::read(path) {
        Ok(content) => Secret::new(content),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NodeError::io(path)(error)),
    };
    let mut lines = content.expose_str().unwrap_or_default().lines();
    let identity = lines.find_map(|line| line.trim().parse().ok());
    identity.map(Some).ok_or_else(|| NodeError::Malformed {
        path: path.to_owned(),
        problem: "it holds no age identity, and this node gets no secrets. Remove it and restart fabrik-agent; how the \
                  leader is told of the new one is in docs/secrets.md"
            .to_owned(),
    })
}

fn write(dir: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => return Err(error.error),
        _ => {}
    }
    fs::File::open(dir)?.sync_all()
}
