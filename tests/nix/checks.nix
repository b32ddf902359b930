# The table's good specs as checks of the flake: each system of them, evaluated with the real nixpkgs. What is built is a
# file that names them, so nothing of them is.
{ pkgs, flake }:
let
  inherit (pkgs) lib;
  of =
    spec:
    let
      cluster = flake.lib.mkCluster {
        src = ./specs + "/${spec}";
        inputs.fabrik = flake;
        k3s-nixpkgs.legacyPackages = lib.mapAttrs (_: import ./k3s-of-the-table.nix) flake.inputs.nixpkgs.legacyPackages;
      };
      systems = lib.mapAttrs (_: machine: machine.config.system.build.toplevel.drvPath) cluster.nixosConfigurations;
    in
    pkgs.writeText "systems-of-${spec}.json" (builtins.unsafeDiscardStringContext (builtins.toJSON systems));
  good = builtins.filter (name: !lib.hasPrefix "wrong-" name) (builtins.attrNames (builtins.readDir ./specs));
in
builtins.listToAttrs (
  map (spec: {
    name = "systems-of-${spec}";
    value = of spec;
  }) good
)
