//! What can be told of the NixOS side without Nix. The leader hears of it when it evaluates.

use fabrik_core::diagnostic::{Diagnostic, Place};
use fabrik_core::id::PoolName;
use fabrik_core::spec::Spec;

use crate::build::lock_fault;
use crate::repo::{RepoError, Tree};

const LOCK_FILE: &str = "flake.lock";
/// Where `mkCluster` finds what one pool's nodes run.
const POOLS_DIR: &str = "nixos/pools/";

/// All that is wrong, where there is a flake.
///
/// # Errors
/// A file can't be read.
pub fn faults(tree: &Tree, spec: Option<&Spec>) -> Result<Vec<Diagnostic>, RepoError> {
    if tree.file("flake.nix").is_none() {
        return Ok(Vec::new());
    }
    let mut faults = Vec::new();
    if tree.file(LOCK_FILE).is_some() {
        let content = tree.read(LOCK_FILE)?;
        faults.extend(no_lock_file(&content));
    }
    faults.extend(spec.iter().flat_map(|spec| without_pool(tree, spec)));
    Ok(faults)
}

fn no_lock_file(content: &[u8]) -> Option<Diagnostic> {
    Some(Diagnostic {
        place: Place::file(LOCK_FILE),
        object: LOCK_FILE.to_owned(),
        problem: lock_fault(content)?,
        remedy: "remove it, and `nix flake lock` makes it anew".to_owned(),
    })
}

/// A module of a pool that is called otherwise would be left out without a word.
fn without_pool<'a>(tree: &'a Tree, spec: &'a Spec) -> impl Iterator<Item = Diagnostic> + 'a {
    let pool_of = |path: &str| {
        let name = path.strip_prefix(POOLS_DIR)?.strip_suffix(".nix")?;
        (!name.contains('/')).then(|| name.to_owned())
    };
    tree.files().filter_map(move |file| {
        let name = pool_of(&file.path)?;
        let pools: Vec<&str> = spec.pools.keys().map(PoolName::as_str).collect();
        (!pools.contains(&name.as_str())).then(|| Diagnostic {
            place: Place::file(&file.path),
            object: file.path.clone(),
            problem: format!("cluster.toml has no pool `{name}`, so fabrik gives this to no node"),
            remedy: match pools.as_slice() {
                [] => "remove it, or add that pool to cluster.toml".to_owned(),
                pools => format!(
                    "call it after a pool ({}), or move what others import out of {POOLS_DIR}",
                    pools.join(", ")
                ),
            },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(files: &[(&str, &str)], pools: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut spec = "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36\"\n[hetzner]\n\
                        token = { file = \"secrets/hetzner.yaml\", key = \"token\" }\n"
            .to_owned();
        let table = "count = 1\nserver-types = [\"cx33\"]\nlocations = [\"fsn1\"]\nimage = \"1\"\n";
        spec.extend(pools.iter().map(|pool| format!("[pools.{pool}]\n{table}")));
        let spec = fabrik_core::spec::parse("cluster.toml", &spec).unwrap();
        let tree = Tree::of_directory(dir.path()).unwrap();
        let faults = faults(&tree, Some(&spec)).unwrap();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_lock_file_is_told_from_what_is_none() {
        let good = r#"{"nodes": {"root": {}}, "root": "root", "version": 7}"#;
        assert!(told(&[("flake.nix", ""), ("flake.lock", good)], &[]).is_empty());
        for bad in [
            "",
            "{",
            "{}",
            r#"{"nodes": {}, "root": "root", "version": 7}"#,
        ] {
            let told = told(&[("flake.nix", ""), ("flake.lock", bad)], &[]);
            assert!(
                told.len() == 1 && told[0].starts_with("flake.lock: "),
                "{told:?}"
            );
        }
        assert!(
            told(&[("flake.lock", "{")], &[]).is_empty(),
            "there is no flake"
        );
    }

    #[test]
    fn a_module_of_no_pool_is_told_with_the_pools_that_there_are() {
        let files = [
            ("flake.nix", ""),
            ("nixos/pools/workers.nix", ""),
            ("nixos/pools/worker.nix", ""),
            ("nixos/pools/gpu/driver.nix", ""),
        ];
        let told = told(&files, &["edge", "workers"]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("nixos/pools/worker.nix: "), "{told:?}");
        assert!(told[0].contains("(edge, workers)"), "{told:?}");
        let told = self::told(&files[..2], &[]);
        assert!(
            told[0].ends_with("remove it, or add that pool to cluster.toml"),
            "{told:?}"
        );
    }
}
