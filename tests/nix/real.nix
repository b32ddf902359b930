# The systems of the cluster's repository `src`, with the modules of a real nixpkgs: `tree` is one, with its `lib` and `nixos`.
{ tree, src }:
let
  lib = import (tree + "/lib");
  nixpkgs = {
    lib = lib // {
      nixosSystem =
        args:
        import (tree + "/nixos/lib/eval-config.nix") (
          {
            inherit lib;
            system = null;
          }
          // args
        );
    };
    legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: import tree { localSystem = { inherit system; }; });
  };
  flake = {
    inputs = { inherit nixpkgs; };
    nixosModules = import ../../nixos flake;
    # The build of the package is the flake's to check.
    packages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: {
      default = nixpkgs.legacyPackages.${system}.hello;
    });
  };
  cluster = import ../../nixos/lib/mk-cluster.nix flake {
    inherit src;
    inputs.fabrik = flake;
    k3s-nixpkgs.legacyPackages = lib.mapAttrs (_: import ./k3s-of-the-table.nix) nixpkgs.legacyPackages;
  };
in
{
  inherit (cluster) nixosConfigurations;
  systems = builtins.mapAttrs (_: machine: machine.config.system.build.toplevel.drvPath) cluster.nixosConfigurations;
  images = builtins.mapAttrs (_: machine: machine.config.system.build.fabrikImage.drvPath) cluster.nixosConfigurations;
}
