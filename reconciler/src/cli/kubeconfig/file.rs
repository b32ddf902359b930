//! Kubeconfig files: a new one, and an entry in somebody's own, with all that this fabrik does not know of in its place.

use std::env;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::Cluster;
use serde_json::{Map, Value, json};

use crate::cluster::admins::Credential;
use crate::secrets::Secret;

/// A cluster, a user and the context of the two, all of one name.
pub struct Entry<'a> {
    pub name: &'a str,
    pub cluster: &'a Cluster,
    pub credential: &'a Credential,
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("there is no kubeconfig to add to: set KUBECONFIG or HOME, or write one by --output")]
    NoPlace,
    #[error("{path} can't be {action}: {source}", path = path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is no kubeconfig ({problem}), so nothing is added to it", path = path.display())]
    NotOne { path: PathBuf, problem: String },
    #[error(
        "{path} has {what} already, and it is another cluster's. Give --context another name, or --force to replace it",
        path = path.display()
    )]
    Elsewhere { path: PathBuf, what: String },
    #[error("a kubeconfig can't be written as YAML: {0}")]
    Yaml(String),
}

/// The user's own file, and what is to be added to it.
pub struct Merge {
    path: PathBuf,
    document: Map<String, Value>,
    name: String,
    /// The CA's certificate, by which a cluster is the same wherever its API server is reached.
    authority: Option<String>,
}

const LISTS: [(&str, &str); 3] = [
    ("clusters", "cluster"),
    ("users", "user"),
    ("contexts", "context"),
];

/// A kubeconfig of the entry alone.
pub fn text(entry: &Entry<'_>) -> Result<Secret, FileError> {
    let mut document = Map::new();
    add(&mut document, entry);
    yaml(&document)
}

/// Writes a kubeconfig of the entry alone, for its owner; says where.
pub fn write(path: &Path, entry: &Entry<'_>) -> Result<String, FileError> {
    replace(path, &text(entry)?)?;
    Ok(path.display().to_string())
}

impl Merge {
    /// Reads the file that kubectl would write a new context to.
    pub fn begin(name: &str, cluster: &Cluster) -> Result<Self, FileError> {
        let path = place().ok_or(FileError::NoPlace)?;
        Self::of_file(path, name, cluster)
    }

    fn of_file(path: PathBuf, name: &str, cluster: &Cluster) -> Result<Self, FileError> {
        // A link stays one, also where what it leads to is not there yet.
        let path = fs::canonicalize(&path).unwrap_or_else(|_| match fs::read_link(&path) {
            Ok(target) => path.parent().unwrap_or(Path::new("")).join(target),
            Err(_no_link) => path,
        });
        let document = match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Map::new(),
            Err(source) => return Err(failed("read", &path)(source)),
        };
        Ok(Self {
            path,
            document,
            name: name.to_owned(),
            authority: cluster.certificate_authority_data.clone(),
        })
    }

    /// # Errors
    /// One of the three names is taken by what leads to another cluster.
    pub fn must_be_the_same(&self) -> Result<(), FileError> {
        let context = self.found("contexts", &self.name);
        let context = context.map(|context| &context["context"]);
        let of_context = context.map(|context| context["cluster"].as_str().unwrap_or_default());
        let others = |user: &Value| {
            let name = user["name"].as_str();
            name != Some(&self.name) && user["context"]["user"] == self.name.as_str()
        };
        let is_shared = self.list("contexts").iter().any(others);
        let what = if of_context.is_some_and(|cluster| !self.is_same(cluster)) {
            "context"
        } else if self.found("clusters", &self.name).is_some() && !self.is_same(&self.name) {
            "cluster"
        } else if is_shared || (context.is_none() && self.found("users", &self.name).is_some()) {
            "user"
        } else {
            return Ok(());
        };
        Err(FileError::Elsewhere {
            path: self.path.clone(),
            what: format!("a {what} `{}`", self.name),
        })
    }

    /// Writes the file anew, whole, with the entry in it; says where.
    pub fn write(mut self, entry: &Entry<'_>) -> Result<String, FileError> {
        add(&mut self.document, entry);
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).map_err(failed("made", dir))?;
        }
        replace(&self.path, &yaml(&self.document)?)?;
        Ok(self.path.display().to_string())
    }

    /// Whether the cluster of that name in the file has the same CA.
    fn is_same(&self, cluster: &str) -> bool {
        let Some(found) = self.found("clusters", cluster) else {
            return false;
        };
        let found = &found["cluster"];
        let authority = match found["certificate-authority"].as_str() {
            Some(file) if found["certificate-authority-data"].is_null() => {
                let dir = self.path.parent().unwrap_or(Path::new("."));
                fs::read(dir.join(file))
                    .ok()
                    .map(|pem| STANDARD.encode(pem))
            }
            _ => found["certificate-authority-data"]
                .as_str()
                .map(str::to_owned),
        };
        authority.is_some() && authority == self.authority
    }

    fn list(&self, list: &str) -> &[Value] {
        let list = self.document.get(list).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    fn found(&self, list: &str, name: &str) -> Option<&Value> {
        self.list(list).iter().find(|entry| entry["name"] == name)
    }
}

/// As kubectl chooses a file for a new context (k8s.io/client-go, tools/clientcmd, `GetDefaultFilename`).
fn place() -> Option<PathBuf> {
    let variable = env::var_os("KUBECONFIG").unwrap_or_default();
    let named: Vec<PathBuf> = env::split_paths(&variable)
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    let there = named.iter().find(|path| path.exists());
    if let Some(path) = there.or(named.last()) {
        return Some(path.clone());
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(PathBuf::from(home).join(".kube/config"))
}

fn parse(path: &Path, text: &str) -> Result<Map<String, Value>, FileError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let not_one = |problem: &str| FileError::NotOne {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    // What it is about is not said: the file holds keys.
    let document = serde_saphyr::from_str(text).map_err(|_| not_one("it is no YAML"))?;
    let Value::Object(document) = document else {
        return Err(not_one("it is no map"));
    };
    for (list, _) in LISTS {
        if !document
            .get(list)
            .is_none_or(|l| l.is_array() || l.is_null())
        {
            return Err(not_one(&format!("`{list}` is no list")));
        }
    }
    Ok(document)
}

/// Puts the three parts of the entry into the document, in the places of those that have its name.
fn add(document: &mut Map<String, Value>, entry: &Entry<'_>) {
    let Entry {
        name,
        cluster,
        credential,
    } = entry;
    document.entry("apiVersion").or_insert(json!("v1"));
    document.entry("kind").or_insert(json!("Config"));
    let key = STANDARD.encode(credential.key_pem.expose());
    let parts = [
        json!(cluster),
        json!({
            "client-certificate-data": STANDARD.encode(&credential.certificate_pem),
            "client-key-data": key,
        }),
        json!({"cluster": name, "user": name}),
    ];
    for ((list, key), part) in LISTS.into_iter().zip(parts) {
        let entries = document.entry(list).or_insert(Value::Null);
        if !entries.is_array() {
            *entries = json!([]);
        }
        let new = json!({"name": name, key: part});
        if let Some(entries) = entries.as_array_mut() {
            match entries.iter_mut().find(|there| there["name"] == *name) {
                Some(there) => *there = new,
                None => entries.push(new),
            }
        }
    }
    let current = document.entry("current-context").or_insert(json!(""));
    if current.as_str().is_none_or(str::is_empty) {
        *current = json!(name);
    }
}

fn yaml(document: &Map<String, Value>) -> Result<Secret, FileError> {
    let text = serde_saphyr::to_string(document);
    let text = text.map_err(|error| FileError::Yaml(error.to_string()))?;
    Ok(Secret::new(text.into_bytes()))
}

/// The file appears whole, and only its owner reads it.
fn replace(path: &Path, text: &Secret) -> Result<(), FileError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let written = || {
        let mut file = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")))?;
        file.write_all(text.expose())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    written().map_err(failed("written", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
    let path = path.to_owned();
    move |source| FileError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;
    use kube::config::Kubeconfig;

    use super::*;

    const OWN: &str = "\
# mine
apiVersion: v1
clusters:
- name: work
  cluster: {server: 'https://work:6443', certificate-authority-data: b3RoZXI=, new-in-2031: 'yes'}
users:
- {name: me, user: {token: hunter2}}
contexts:
- {name: work, context: {cluster: work, user: me}}
current-context: work
preferences: {}
";

    fn cluster() -> Cluster {
        Cluster {
            server: Some("https://10.0.0.1:6443".to_owned()),
            certificate_authority_data: Some(STANDARD.encode("our CA")),
            ..Cluster::default()
        }
    }

    fn credential() -> Credential {
        Credential {
            certificate_pem: b"the certificate".to_vec(),
            key_pem: Secret::new(b"the key".to_vec()),
            until: Timestamp::UNIX_EPOCH,
        }
    }

    fn merged(dir: &Path, before: &str, force: bool) -> Result<String, FileError> {
        let path = dir.join("config");
        fs::write(&path, before).unwrap();
        let (cluster, credential) = (cluster(), credential());
        let merge = Merge::of_file(path.clone(), "demo", &cluster)?;
        if !force {
            merge.must_be_the_same()?;
        }
        merge.write(&Entry {
            name: "demo",
            cluster: &cluster,
            credential: &credential,
        })?;
        Ok(fs::read_to_string(path).unwrap())
    }

    #[test]
    fn an_entry_is_added_and_renewed_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let once = merged(dir.path(), OWN, false).unwrap();
        assert_eq!(merged(dir.path(), &once, false).unwrap(), once);
        let mode = fs::metadata(dir.path().join("config"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);

        let read: Value = serde_saphyr::from_str(&once).unwrap();
        let own: Value = serde_saphyr::from_str(OWN).unwrap();
        for list in ["clusters", "users", "contexts"] {
            assert_eq!(read[list][0], own[list][0]);
            assert_eq!(read[list][1]["name"], "demo");
        }
        assert_eq!(read["current-context"], "work");
        let kubeconfig = Kubeconfig::from_yaml(&once).unwrap();
        assert_eq!(read["clusters"][1]["cluster"], json!(cluster()));
        let user = kubeconfig.auth_infos[1].auth_info.clone().unwrap();
        assert_eq!(
            user.client_certificate_data,
            Some(STANDARD.encode("the certificate"))
        );
        assert!(user.client_key_data.is_some());
    }

    #[test]
    fn a_link_stays_one_whether_it_leads_anywhere_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let (link, cluster) = (dir.path().join("link"), cluster());
        std::os::unix::fs::symlink("config", &link).unwrap();
        for _ in 0..2 {
            let merge = Merge::of_file(link.clone(), "demo", &cluster).unwrap();
            let credential = credential();
            merge
                .write(&Entry {
                    name: "demo",
                    cluster: &cluster,
                    credential: &credential,
                })
                .unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert!(dir.path().join("config").is_file());
        }
    }

    #[test]
    fn a_file_of_its_own_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let text = merged(dir.path(), "", false).unwrap();
        let read = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("demo"));
        assert_eq!((read.clusters.len(), read.contexts.len()), (1, 1));
    }

    #[test]
    fn what_leads_elsewhere_is_replaced_only_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let context = OWN.replace("name: work, context", "name: demo, context");
        let of_cluster = OWN.replace("- name: work", "- name: demo");
        let user = OWN.replace("name: me, user", "name: demo, user");
        for (before, what) in [
            (context, "context"),
            (of_cluster, "cluster"),
            (user, "user"),
        ] {
            let told = merged(dir.path(), &before, false).unwrap_err().to_string();
            assert!(
                told.contains(&format!("a {what} `demo`")) && told.contains("--force"),
                "{told}"
            );
            assert_eq!(
                fs::read_to_string(dir.path().join("config")).unwrap(),
                before
            );
            merged(dir.path(), &before, true).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_left_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        for before in ["token: [hunter2", "- hunter2\n", "users: hunter2\n"] {
            let told = merged(dir.path(), before, true).unwrap_err().to_string();
            assert!(
                told.contains("no kubeconfig") && !told.contains("hunter2"),
                "{told}"
            );
        }
    }
}
