# What nixos/disk.nix and nixos/image.nix make of a server's disk, evaluated with the stub of nixpkgs. `toplevel` is the path
# of the system that is installed.
{ toplevel }:
let
  stub = import ../nix/stub.nix;
  cluster = import ../../nixos/lib/mk-cluster.nix stub.flake {
    src = ../nix/specs/smallest;
    inputs.fabrik = stub.flake;
    modules.all = [ { system.build = { inherit toplevel; }; } ];
  };
  inherit (cluster.nixosConfigurations.servers) config;
in
{
  install = { inherit (config.system.build.fabrikInstall) runtimeInputs text; };
  grub = { inherit (config.boot.loader.grub) device efiSupport efiInstallAsRemovable; };
  inherit (config.boot) growPartition;
  drivers = config.boot.initrd.availableKernelModules;
  root = config.fileSystems."/";
  boot = config.fileSystems."/boot";
}
