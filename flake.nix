{
  description = "fabrik: a Kubernetes cluster on Hetzner Cloud that follows one git repository";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      workspace = builtins.fromTOML (builtins.readFile ./Cargo.toml);
    in
    {
      packages = forEach (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = "fabrik";
          version = workspace.workspace.package.version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [ "--package=fabrik" ];
          # The other tests need a control plane: `make test`.
          cargoTestFlags = [ "--package=fabrik-core" ];
          meta = {
            description = "A Kubernetes cluster on Hetzner Cloud that follows one git repository";
            license = pkgs.lib.licenses.asl20;
            mainProgram = "fabrik";
            platforms = systems;
          };
        };
      });

      nixosModules.default = import ./nixos/fabrik.nix self;
      nixosModules.agent = import ./nixos/agent.nix self;

      devShells = forEach (pkgs: {
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
            openssh
            python3
            rustc
            rustfmt
            sops
          ];
        };
      });

      checks = forEach (pkgs: {
        package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        # The module with the real option types, as far as a system goes without being built.
        module =
          let
            system = nixpkgs.lib.nixosSystem {
              modules = [
                self.nixosModules.default
                self.nixosModules.agent
                ./tests/nix/example.nix
                {
                  nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
                  boot.isContainer = true;
                  system.stateVersion = "26.05";
                }
              ];
            };
          in
          pkgs.writeText "fabrik.service" system.config.systemd.units."fabrik.service".text;
      });
    };
}
