{
  fabrik.disk.data = {
    device = "/dev/sdb";
    mountPoint = "/var/lib/longhorn";
    fsType = "xfs";
  };
  fabrik.firewall.nodes.tcp = [ 9100 ];
}
