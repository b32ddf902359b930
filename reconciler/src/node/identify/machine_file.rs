//! What a machine of the user's own is told in the place of user data and metadata: a file that `fabrik install` writes, for
//! root alone, and that is gone once it was read.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use fabrik_core::id::{NodeName, ServerId};
use serde::{Deserialize, Serialize};

use super::kept::{Identity, STATE_DIR, keep, keep_token, kept};
use super::metadata::{Addresses, Metadata};
use super::{IdentifyError, first_boot};
use crate::cluster::user_data::{ServerData, UserData};
use crate::node::NodeError;
use crate::node::state;

/// Beside what a machine keeps of its first boot.
pub const NAME: &str = "machine.json";

/// User data, and what Hetzner's metadata would say of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MachineFile {
    pub server: ServerId,
    pub node_ip: Ipv4Addr,
    pub user_data: Given,
}

/// As a server at Hetzner that has the same to become is created with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Given {
    Server(ServerData),
    Agent(UserData),
}

impl Given {
    fn node_name(&self) -> &NodeName {
        match self {
            Self::Server(data) => &data.node_name,
            Self::Agent(data) => &data.node_name,
        }
    }
}

/// `None` where nobody has installed this machine since it was read last.
pub fn read(root: &Path) -> Result<Option<MachineFile>, NodeError> {
    let path = root.join(STATE_DIR).join(NAME);
    let Some(text) = state::read(&path)? else {
        return Ok(None);
    };
    // It holds a token: an error says where, and quotes nothing.
    let file = serde_json::from_str(&text).map_err(|error| NodeError::Malformed {
        path,
        problem: format!("line {}, column {}", error.line(), error.column()),
    });
    file.map(Some)
}

/// Keeps what it says, and what a server is then given, and removes it. Read anew after a cut, it says the same.
pub async fn take(root: &Path, file: MachineFile) -> Result<Identity, IdentifyError> {
    let path = root.join(STATE_DIR).join(NAME);
    let given = file.user_data.node_name();
    if let Some(kept) = kept(root)?
        && kept.node() != given
    {
        return Err(IdentifyError::OtherNode {
            path,
            kept: kept.node().clone(),
            given: given.clone(),
        });
    }
    let metadata = Metadata {
        instance_id: file.server.0,
        addresses: Addresses {
            private: file.node_ip,
            public: None,
            ipv6: None,
        },
    };
    let identity = match file.user_data {
        Given::Server(data) => first_boot::server(root, data, metadata).await?,
        Given::Agent(data) => {
            keep_token(root, &data.token)?;
            first_boot::of_agent(data, metadata)
        }
    };
    keep(root, &identity)?;
    fs::remove_file(&path).map_err(NodeError::io(path))?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(root: &Path, node: &str, token: &str) {
        let file = json!({
            "server": 1_u64 << 53, "node-ip": "10.9.0.50",
            "user-data": {
                "fabrik": 1, "role": "agent", "pool": "home", "node-name": node, "cluster-name": "demo",
                "cluster-id": "abcdefgh01234567", "public-key": null, "servers": ["https://10.0.1.1:6443"], "token": token,
            },
        });
        fs::create_dir_all(root.join(STATE_DIR)).unwrap();
        fs::write(root.join(STATE_DIR).join(NAME), file.to_string()).unwrap();
    }

    #[tokio::test]
    async fn a_machine_is_told_by_a_file_that_is_gone_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(read(root).unwrap().is_none());
        write(root, "demo-home-desktop", "K10ca::id.one");
        let identity = take(root, read(root).unwrap().unwrap()).await.unwrap();
        assert!(identity.server_id().is_own());
        assert_eq!(kept(root).unwrap(), Some(identity));
        assert!(
            read(root).unwrap().is_none(),
            "its token is on the disk once"
        );
        let token = || fs::read_to_string(root.join(STATE_DIR).join("token")).unwrap();
        assert_eq!(token(), "K10ca::id.one");

        write(root, "demo-home-desktop", "K10ca::id.two");
        take(root, read(root).unwrap().unwrap()).await.unwrap();
        assert_eq!(
            token(),
            "K10ca::id.two",
            "installed once more, it has a new one"
        );
    }

    #[tokio::test]
    async fn a_machine_that_is_another_node_stays_that_one() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "demo-home-desktop", "K10ca::id.one");
        take(root, read(root).unwrap().unwrap()).await.unwrap();
        write(root, "demo-home-nas", "K10ca::id.two");
        let error = take(root, read(root).unwrap().unwrap())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("is for demo-home-nas"), "{error}");
        assert!(error.contains("has been demo-home-desktop"), "{error}");
    }

    #[test]
    fn a_broken_file_is_not_quoted() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "NO NAME", "hunter2");
        let error = read(root.path()).unwrap_err().to_string();
        assert!(error.contains("line 1, column"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
