# All nodes. An ordinary NixOS module: what fabrik sets, `lib.mkForce` and `disabledModules` change.
# Nothing here may be of one node alone: a system is shared by its whole pool.
{ pkgs, ... }:
{
  environment.systemPackages = [ pkgs.htop ];

  # The release whose defaults for data on disk hold here. Leave it when you move to a newer nixpkgs.
  system.stateVersion = "26.05";
}
