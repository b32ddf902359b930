{ lib, ... }:
{
  time.timeZone = "Europe/Berlin";
  nix.gc.automatic = lib.mkForce false;
  fabrik.storage.longhorn.enable = true;
}
