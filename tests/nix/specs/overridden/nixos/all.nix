# What is set by fabrik and may be set otherwise, in each of the ways that NixOS has.
{ inputs, lib, ... }:
{
  disabledModules = [ inputs.fabrik.nixosModules.identity or { key = "fabrik#nixosModules.identity"; } ];
  services.openssh.enable = false;
  swapDevices = [ { device = "/swap"; } ];
  networking.nftables.enable = lib.mkForce false;
  boot.loader.timeout = 10;
  fileSystems."/".fsType = "xfs";
}
