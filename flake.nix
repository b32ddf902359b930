{
  description = "fabrik: a Kubernetes cluster on Hetzner Cloud that follows one git repository";

  # The one input: docs/nixos.md, "What is not here", says why there is no other. A release, because the unstable branch has
  # no x86_64-darwin any more.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs, ... }:
    let
      inherit (nixpkgs) lib;
      # What nodes run, and what people have who found a cluster from their laptop.
      linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      darwin = [
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forEach = systems: make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      fabrik = import ./nixos/package.nix self;
    in
    {
      packages = forEach (linux ++ darwin) (
        pkgs:
        {
          default = pkgs.callPackage fabrik { };
        }
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
          # Runs on any Linux: for rescue systems, other distributions and releases.
          fabrik-static = pkgs.pkgsStatic.callPackage fabrik { };
        }
      );

      nixosModules = import ./nixos self;

      lib.mkCluster = import ./nixos/lib/mk-cluster.nix self;

      templates.default = {
        path = ./cluster-repo-template;
        description = "A cluster's repository; `fabrik init` writes it with what can't be guessed";
      };

      devShells = forEach (linux ++ darwin) (pkgs: {
        default = pkgs.mkShell {
          packages = with pkgs; [
            age
            cargo
            cargo-deny
            clippy
            etcd
            git
            gnumake
            go
            nixfmt-rfc-style
            openssh
            python3
            rustc
            rustfmt
            sops
          ];
        };
      });

      checks = forEach linux (
        pkgs:
        {
          package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
          cluster = pkgs.callPackage ./tests/nix/vm.nix { flake = self; };
        }
        # The table's good specs with the real options and their types, as far as a system goes without being built.
        // import ./tests/nix/checks.nix { inherit pkgs; flake = self; }
      );
    };
}
