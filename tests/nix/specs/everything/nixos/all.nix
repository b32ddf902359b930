{ lib, ... }:
{
  time.timeZone = "Europe/Berlin";
  services.journald.extraConfig = lib.mkForce "SystemMaxUse=200M";
  fabrik.storage.longhorn.enable = true;
}
