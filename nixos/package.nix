# The package: nixpkgs' own builder, and the crates that Cargo.lock names.
src:
{
  lib,
  rustPlatform,
}:
rustPlatform.buildRustPackage {
  pname = "fabrik";
  version = (builtins.fromTOML (builtins.readFile (src + "/Cargo.toml"))).workspace.package.version;
  inherit src;
  cargoLock.lockFile = src + "/Cargo.lock";
  cargoBuildFlags = [ "--package=fabrik" ];
  # The other tests need a control plane: `make test`.
  cargoTestFlags = [ "--package=fabrik-core" ];
  meta = {
    description = "A Kubernetes cluster on Hetzner Cloud that follows one git repository";
    license = lib.licenses.asl20;
    mainProgram = "fabrik";
    platforms = lib.platforms.linux ++ lib.platforms.darwin;
  };
}
