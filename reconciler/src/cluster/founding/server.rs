//! What a server's own disk says: whether etcd keeps the cluster's data here, and whether systems can be built here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::config::{Cache, Etcd, Join, Nix};

const K3S_DIR: &str = "/var/lib/rancher/k3s";
const NIX_DIR: &str = "/run/current-system/sw/bin";
const ETCD: &str = "https://127.0.0.1:2379";
/// Whom it answers is decided by certificates, not by the address.
const CACHE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9642);

/// Whom it answers is decided by what the machine shows.
const JOIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9643);

/// Where to look; `None` is where NixOS and k3s have it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Places<'a> {
    pub k3s: Option<&'a Path>,
    pub nix: Option<&'a Path>,
    pub cache: Option<SocketAddr>,
    pub join: Option<SocketAddr>,
}

/// The sections of the configuration that follow from what is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sections {
    pub etcd: Option<Etcd>,
    pub nix: Option<Nix>,
    pub cache: Option<Cache>,
    pub join: Option<Join>,
}

pub fn sections(places: Places<'_>, signing_key: &Path) -> Sections {
    let server = places.k3s.unwrap_or(Path::new(K3S_DIR)).join("server");
    let tls = server.join("tls");
    let all = |files: [PathBuf; 3]| files.iter().all(|f| f.exists()).then_some(files);
    let etcd = ["server-ca.crt", "client.crt", "client.key"].map(|f| tls.join("etcd").join(f));
    let etcd = all(etcd).map(|[ca_file, certificate_file, key_file]| Etcd {
        endpoint: ETCD.to_owned(),
        ca_file,
        certificate_file,
        key_file,
        snapshot_dir: server.join("db/snapshots"),
    });
    let programs = places.nix.unwrap_or(Path::new(NIX_DIR));
    let nix = programs.join("nix").exists();
    let nix = nix.then(|| Nix::at(programs, signing_key));
    let cache = [
        "serving-kube-apiserver.crt",
        "serving-kube-apiserver.key",
        "client-ca.crt",
    ];
    let cache = all(cache.map(|f| tls.join(f))).filter(|_| nix.is_some());
    let cache = cache.map(|[certificate_file, key_file, client_ca_file]| Cache {
        listen: places.cache.unwrap_or(CACHE),
        certificate_file,
        key_file,
        client_ca_file,
    });
    let join = [
        "tls/serving-kube-apiserver.crt",
        "tls/serving-kube-apiserver.key",
        "token",
    ];
    let join = all(join.map(|f| server.join(f)));
    let join = join.map(|[certificate_file, key_file, k3s_token_file]| Join {
        listen: places.join.unwrap_or(JOIN),
        certificate_file,
        key_file,
        k3s_token_file,
    });
    Sections {
        etcd,
        nix,
        cache,
        join,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_written_where_its_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = |file: &str| dir.path().join(file);
        let put = |file: &str| {
            std::fs::create_dir_all(path(file).parent().unwrap()).unwrap();
            std::fs::write(path(file), "x").unwrap();
        };
        let (k3s, nix) = (path("k3s"), path("bin"));
        let places = Places {
            k3s: Some(&k3s),
            nix: Some(&nix),
            cache: None,
            join: None,
        };
        let look = || sections(places, Path::new("/f/signing.key"));
        assert_eq!(look(), Sections::default());
        put("k3s/server/tls/etcd/server-ca.crt");
        put("k3s/server/tls/etcd/client.crt");
        assert_eq!(look(), Sections::default(), "its key is missing");
        put("k3s/server/tls/etcd/client.key");
        let etcd = look().etcd.unwrap();
        assert_eq!(etcd.snapshot_dir, path("k3s/server/db/snapshots"));
        assert!(etcd.key_file.ends_with("tls/etcd/client.key"));
        for file in [
            "serving-kube-apiserver.crt",
            "serving-kube-apiserver.key",
            "client-ca.crt",
        ] {
            put(&format!("k3s/server/tls/{file}"));
        }
        assert_eq!(look().cache, None, "nothing is built here");
        assert_eq!(look().join, None, "k3s has no token yet");
        put("k3s/server/token");
        assert_eq!(look().join.unwrap().listen, JOIN);
        put("bin/nix");
        let found = look();
        assert_eq!(found.nix.unwrap().program_dir, nix);
        assert_eq!(found.cache.unwrap().listen, CACHE);
    }
}
