//! The real parts that a bed is made of: found on PATH where the version fits, else built once.
//!
//! What is built goes to `target/parts/<name>-<version>/` (or to `FABRIK_PARTS_DIR`), whole or not
//! at all. Nothing is installed outside that folder, save `openssh-server` by apt when root asks.

mod build;
pub mod former;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The Kubernetes version of a control plane that nobody asked another one of.
pub const KUBERNETES_VERSION: &str = "1.36.3";

/// The minor before: what an upgrade begins with.
pub const FORMER_KUBERNETES_VERSION: &str = "1.35.4";

/// What KWOK plays: pods only.
pub const KWOK_STAGES: &str = include_str!("../parts/kwok-0.8.0/stages.yaml");

/// Paths of all parts, ready to run.
#[derive(Clone, Debug)]
pub struct Parts {
    /// By version ("1.36.3").
    kubernetes: BTreeMap<String, Kubernetes>,
    pub etcd: PathBuf,
    pub etcdctl: PathBuf,
    pub kwok: PathBuf,
    pub sops: PathBuf,
    pub kubectl: PathBuf,
    pub sshd: PathBuf,
    /// `git http-backend`, the CGI program.
    pub git_http_backend: PathBuf,
}

/// The programs of one Kubernetes version.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    pub version: String,
    pub apiserver: PathBuf,
    pub controller_manager: PathBuf,
    pub scheduler: PathBuf,
    pub kubectl: PathBuf,
}

impl Parts {
    /// All of them that a machine may run.
    pub fn programs(&self) -> impl Iterator<Item = &Path> {
        let kubernetes = self.kubernetes.values();
        let kubernetes = kubernetes.flat_map(|k| [&k.apiserver, &k.kubectl]);
        let own = [&self.etcd, &self.kwok, &self.sops, &self.kubectl];
        kubernetes.chain(own).map(PathBuf::as_path)
    }

    /// Finds or builds everything that a bed with these Kubernetes versions needs. Blocks, for
    /// minutes when something is built; says on standard error what it does.
    pub fn prepare(kubernetes_versions: &[&str]) -> Result<Self> {
        let dir = parts_dir();
        let mut kubernetes = BTreeMap::new();
        let mut sources = vec![ETCD, KWOK, SOPS];
        for version in kubernetes_versions {
            sources.push(kubernetes_source(version)?);
        }
        let found = build::all(&sources, &dir)?;
        let program = |source: &Source, name: &str| -> Result<PathBuf> {
            let key = (source.folder, name.to_owned());
            found
                .get(&key)
                .cloned()
                .with_context(|| format!("{name} was neither found nor built"))
        };
        for version in kubernetes_versions {
            let source = kubernetes_source(version)?;
            kubernetes.insert(
                (*version).to_owned(),
                Kubernetes {
                    version: (*version).to_owned(),
                    apiserver: program(&source, "kube-apiserver")?,
                    controller_manager: program(&source, "kube-controller-manager")?,
                    scheduler: program(&source, "kube-scheduler")?,
                    kubectl: program(&source, "kubectl")?,
                },
            );
        }
        let kubectl = kubernetes
            .values()
            .next_back()
            .context("no Kubernetes version was asked for")?;
        Ok(Self {
            kubectl: kubectl.kubectl.clone(),
            etcd: program(&ETCD, "etcd")?,
            etcdctl: program(&ETCD, "etcdctl")?,
            kwok: program(&KWOK, "kwok")?,
            sops: program(&SOPS, "sops")?,
            sshd: sshd()?,
            git_http_backend: git_http_backend()?,
            kubernetes,
        })
    }

    /// What restores snapshots of etcd. Blocks, for some seconds when it is built.
    pub fn etcdutl() -> Result<PathBuf> {
        let found = build::all(&[ETCDUTL], &parts_dir())?;
        let found = found.into_values().next();
        found.context("etcdutl was neither found nor built")
    }

    /// Nix: the one on PATH, else Debian's without installing it. Blocks, for some seconds the first time.
    pub fn nix() -> Result<PathBuf> {
        if let Some(found) = on_path("nix") {
            return Ok(found);
        }
        let (dir, tests) = (
            parts_dir(),
            Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
        );
        let dir = dir
            .parent()
            .context("a folder above the parts")?
            .join("nix");
        std::fs::create_dir_all(&dir)?;
        let _lock = build::lock(&dir)?;
        let got = Command::new(tests.join("nix/get-nix.sh"))
            .arg(&dir)
            .stdout(std::io::stderr())
            .status()
            .context("starting tests/nix/get-nix.sh")?;
        if !got.success() {
            bail!("tests/nix/get-nix.sh: {got}. Put nix on PATH, or install what it names");
        }
        Ok(dir.join("bin/nix"))
    }

    /// The programs of `version`, which must have been prepared.
    pub fn kubernetes(&self, version: &str) -> Result<&Kubernetes> {
        self.kubernetes.get(version).with_context(|| {
            let known: Vec<_> = self.kubernetes.keys().collect();
            format!("Kubernetes {version} was not prepared for this bed; it has {known:?}")
        })
    }
}

/// One Go module of ours (`parts/<folder>`) with the programs that are built from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// `<name>-<version>`, both under `parts/` and under `target/parts/`.
    pub folder: &'static str,
    pub version: &'static str,
    pub programs: &'static [Program],
    pub linker_flags: &'static str,
    /// With empty caches on two cores.
    pub cold_build: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub name: &'static str,
    pub package: &'static str,
    /// Arguments that make it print its version.
    pub version_arguments: &'static [&'static str],
}

const fn kubernetes_program(name: &'static str, package: &'static str) -> Program {
    Program {
        name,
        package,
        version_arguments: &["--version"],
    }
}

const KUBERNETES_PROGRAMS: &[Program] = &[
    kubernetes_program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes_program(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    kubernetes_program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Program {
        name: "kubectl",
        package: "k8s.io/kubernetes/cmd/kubectl",
        version_arguments: &["version", "--client"],
    },
];

const KUBERNETES: &[Source] = &[
    Source {
        folder: "kubernetes-1.36.3",
        version: "1.36.3",
        programs: KUBERNETES_PROGRAMS,
        linker_flags: "-X k8s.io/component-base/version.gitVersion=v1.36.3",
        cold_build: Duration::from_secs(220),
    },
    Source {
        folder: "kubernetes-1.35.4",
        version: "1.35.4",
        programs: KUBERNETES_PROGRAMS,
        linker_flags: "-X k8s.io/component-base/version.gitVersion=v1.35.4",
        cold_build: Duration::from_secs(170),
    },
];

const ETCD: Source = Source {
    folder: "etcd-3.7.3",
    version: "3.7.3",
    programs: &[
        Program {
            name: "etcd",
            package: "go.etcd.io/etcd/server/v3",
            version_arguments: &["--version"],
        },
        Program {
            name: "etcdctl",
            package: "go.etcd.io/etcd/etcdctl/v3",
            version_arguments: &["version"],
        },
    ],
    linker_flags: "",
    cold_build: Duration::from_secs(20),
};

/// Apart from etcd: few tests need it.
const ETCDUTL: Source = Source {
    folder: "etcdutl-3.7.3",
    version: "3.7.3",
    programs: &[Program {
        name: "etcdutl",
        package: "go.etcd.io/etcd/etcdutl/v3",
        version_arguments: &["version"],
    }],
    linker_flags: "",
    cold_build: Duration::from_secs(10),
};

const KWOK: Source = Source {
    folder: "kwok-0.8.0",
    version: "0.8.0",
    programs: &[Program {
        name: "kwok",
        package: "sigs.k8s.io/kwok/cmd/kwok",
        version_arguments: &["--version"],
    }],
    linker_flags: "",
    cold_build: Duration::from_secs(46),
};

const SOPS: Source = Source {
    folder: "sops-3.13.3",
    version: "3.13.3",
    programs: &[Program {
        name: "sops",
        package: "github.com/getsops/sops/v3/cmd/sops",
        version_arguments: &["--version", "--disable-version-check"],
    }],
    linker_flags: "",
    cold_build: Duration::from_secs(54),
};

fn kubernetes_source(version: &str) -> Result<Source> {
    let source = KUBERNETES.iter().find(|source| source.version == version);
    source.copied().with_context(|| {
        let known: Vec<_> = KUBERNETES.iter().map(|source| source.version).collect();
        format!("the bed can't build Kubernetes {version}; it knows {known:?}")
    })
}

/// Where built parts are kept, between runs and for all beds.
fn parts_dir() -> PathBuf {
    std::env::var_os("FABRIK_PARTS_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/parts"),
        PathBuf::from,
    )
}

/// The program called `name` on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

fn sshd() -> Result<PathBuf> {
    let known = || {
        let usual = PathBuf::from("/usr/sbin/sshd");
        on_path("sshd").or_else(|| usual.is_file().then_some(usual))
    };
    if let Some(found) = known() {
        return Ok(found);
    }
    let install = "apt-get install --yes --no-install-recommends openssh-server";
    if !rustix::process::geteuid().is_root() || on_path("apt-get").is_none() {
        bail!("sshd is missing. Install it: {install}");
    }
    eprintln!("sshd is missing: {install}");
    let done = Command::new("sh")
        .args(["-c", &format!("{install} >&2")])
        .status()?;
    match known() {
        Some(found) if done.success() => Ok(found),
        _ => bail!("sshd could not be installed. Install it: apt-get update && {install}"),
    }
}

fn git_http_backend() -> Result<PathBuf> {
    let output = Command::new("git")
        .arg("--exec-path")
        .output()
        .context("git is missing. Install it: apt-get install git")?;
    let dir = String::from_utf8(output.stdout).context("git --exec-path")?;
    let program = Path::new(dir.trim()).join("git-http-backend");
    if !program.is_file() {
        bail!(
            "{} is missing: this git comes without its http server",
            program.display()
        );
    }
    Ok(program)
}
