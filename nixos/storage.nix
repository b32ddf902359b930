# What storage in the cluster needs of its nodes, where it is chosen.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.fabrik.storage;
in
{
  options.fabrik.storage = {
    nfs.enable = lib.mkEnableOption "mounting NFS, for volumes of that kind";
    longhorn.enable = lib.mkEnableOption "what Longhorn needs: iSCSI, NFS for volumes that many pods write to, and its programs where it looks for them";
  };

  config = lib.mkMerge [
    (lib.mkIf (cfg.nfs.enable || cfg.longhorn.enable) {
      boot.supportedFilesystems = [ "nfs" ];
      environment.systemPackages = [ pkgs.nfs-utils ];
    })

    (lib.mkIf cfg.longhorn.enable {
      services.openiscsi = {
        enable = true;
        # Not used: one system serves all nodes of a pool, and an initiator's name is one node's. See below.
        name = lib.mkDefault "iqn.2016-04.com.open-iscsi:unnamed";
      };
      environment.etc."iscsi/initiatorname.iscsi".enable = lib.mkDefault false;
      systemd.services.iscsid.serviceConfig.ExecStartPre = [
        (pkgs.writeShellScript "fabrik-initiator-name" ''
          mkdir -p /etc/iscsi
          read -r id </etc/machine-id
          [ -s /etc/iscsi/initiatorname.iscsi ] ||
            echo "InitiatorName=iqn.2016-04.com.open-iscsi:$id" >/etc/iscsi/initiatorname.iscsi
        '')
      ];
      # Volumes that are encrypted.
      environment.systemPackages = [ pkgs.cryptsetup ];
      boot.kernelModules = [
        "dm_crypt"
        "iscsi_tcp"
      ];
      # Longhorn runs `iscsiadm` and `mount.nfs` on the host by the PATH of its own image (longhorn/longhorn#2166).
      systemd.tmpfiles.rules = [ "L+ /usr/local/bin - - - - /run/current-system/sw/bin" ];
      # multipathd would take its volumes for disks of its own (longhorn/longhorn#1210).
      services.multipath.enable = lib.mkDefault false;
    })
  ];
}
