//! A flake in the repository, whose systems and images real Nix builds: on the laptop, or in the rescue system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fabrik_bed::parts::Parts;

/// Without inputs, so nothing is fetched. A system has the `nix-store` of this machine, and what installs it notes where.
const FLAKE: &str = r#"{
  outputs = { self }: let
    system = "@SYSTEM@";
    make = name: script: derivation {
      inherit name system;
      builder = "/bin/sh";
      args = [ "-c" script ];
      PATH = "/usr/bin:/bin";
    };
    program = text: "printf '%s\n' '#!/bin/sh' '${text}'";
    toplevel = make "system" ''
      mkdir -p $out/sw/bin
      ${program ''exec @NIX@/nix-store "$@"''} >$out/sw/bin/nix-store
      chmod +x $out/sw/bin/nix-store
    '';
    install = make "fabrik-install" ''
      mkdir -p $out/bin
      ${program ''ln -sfn ${toplevel} "$2/nix/var/nix/profiles/system"; echo "$1 ${self.rev or "no commit"}" >"$2/installed"''} >$out/bin/fabrik-install
      chmod +x $out/bin/fabrik-install
    '';
    image = pool: make "image" "mkdir $out; echo 'the disk of ${pool}' >$out/nixos.img";
  in {
    packages.${system} = { image-servers = image "servers"; image-workers = image "workers"; };
    nixosConfigurations = builtins.mapAttrs (_: _: { config.system.build.fabrikInstall = install; }) { servers = { }; workers = { }; };
  };
}
"#;
const NIX_CONF: &str = "substituters =\nsandbox = false\nbuild-users-group =\n";
pub const LOCK: &str = r#"{"nodes": {"root": {}}, "root": "root", "version": 7}"#;

/// The folder of this machine's Nix.
fn program_dir() -> PathBuf {
    let nix = Parts::nix().unwrap();
    nix.parent().unwrap().to_owned()
}

/// The files of the flake, by path.
pub fn flake() -> [(&'static str, String); 2] {
    let system = format!("{}-linux", std::env::consts::ARCH);
    let flake = FLAKE.replace("@SYSTEM@", &system);
    let flake = flake.replace("@NIX@", program_dir().to_str().unwrap());
    [("flake.nix", flake), ("flake.lock", LOCK.to_owned())]
}

/// Nix as a person has it, with a store of their own in `dir`.
pub fn laptops_nix(dir: &Path) -> String {
    fs::create_dir_all(dir.join("conf")).unwrap();
    fs::write(dir.join("conf/nix.conf"), NIX_CONF).unwrap();
    let dir = dir.display();
    format!(
        "#!/bin/sh\nexport NIX_STORE_DIR={dir}/store NIX_STATE_DIR={dir}/var NIX_LOG_DIR={dir}/log NIX_CONF_DIR={dir}/conf\n\
         exec {}/nix \"$@\"\n",
        program_dir().display()
    )
}

/// Has rescue systems build: what they fetch as Nix is this machine's, in a tarball like Nix' own, of that digest.
pub fn offer_nix(machines: &Path, sha256: &str) {
    let tree = machines.join("nix-tree");
    let store = "/nix/store/00000000000000000000000000000000-nix-0";
    let bin = tree.join("nix-0").join(&store[5..]).join("bin");
    fs::create_dir_all(&bin).unwrap();
    let conf = machines.join("nix-conf");
    fs::create_dir_all(&conf).unwrap();
    fs::write(conf.join("nix.conf"), NIX_CONF).unwrap();
    for name in ["nix", "nix-store"] {
        let text = format!(
            "#!/bin/sh\nexport NIX_CONF_DIR={}\nexec {}/{name} \"$@\"\n",
            conf.display(),
            program_dir().display()
        );
        fs::write(bin.join(name), text).unwrap();
    }
    fs::write(tree.join("nix-0/install"), format!("nix=\"{store}\"\n")).unwrap();
    // As `nix-store --load-db` reads it: path, digest, size, deriver, references.
    let registered = format!("{store}\n{}\n1\n\n0\n", "0".repeat(64));
    fs::write(tree.join("nix-0/.reginfo"), registered).unwrap();
    let executable = Command::new("chmod").args(["-R", "a+x"]).arg(&bin).status();
    assert!(executable.unwrap().success());
    let mut tar = Command::new("tar");
    tar.arg("-cJf").arg(machines.join("nix.tar.xz"));
    let status = tar.arg("-C").arg(&tree).arg("nix-0").status();
    assert!(status.unwrap().success());
    fs::write(machines.join("nix.sha256"), sha256).unwrap();
}
