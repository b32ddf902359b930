# What is set by fabrik and may be set otherwise, in each of the ways that NixOS has.
{ inputs, lib, ... }:
{
  disabledModules = [
    inputs.fabrik.nixosModules.firewall
    inputs.fabrik.nixosModules.identity
    inputs.fabrik.nixosModules.image
  ];
  services.openssh.enable = false;
  swapDevices = [ { device = "/swap"; } ];
  networking.firewall.allowedTCPPorts = [ 22 ];
  services.k3s.gracefulNodeShutdown.enable = lib.mkForce false;
  boot.loader.timeout = 10;
  fileSystems."/".fsType = "xfs";
}
