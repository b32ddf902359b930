# What the nodes run. fabrik makes nixosConfigurations.servers, and one for each pool, of cluster.toml and of your modules:
# nixos/all.nix, nixos/servers.nix, nixos/agents.nix and nixos/pools/POOL.nix, each where it is there.
{
  description = "The cluster my-cluster";

  inputs = {
    # Any nixpkgs that has the k3s of cluster.toml.
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    fabrik.url = "github:OWNER/fabrik";
    fabrik.inputs.nixpkgs.follows = "nixpkgs";
  };

  # More inputs reach your modules as the argument `inputs`.
  outputs =
    inputs:
    inputs.fabrik.lib.mkCluster {
      src = ./.;
      inherit inputs;
    };
}
