# What the nodes run. fabrik makes nixosConfigurations.servers, and one for each pool, of cluster.toml and of your modules:
# nixos/all.nix, nixos/servers.nix, nixos/agents.nix and nixos/pools/POOL.nix, each where it is there.
{
  description = "The cluster my-cluster";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # Any nixpkgs that has the k3s of cluster.toml: a release has no minor that came after it. Without this line k3s comes from
    # the one above.
    k3s-nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
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
