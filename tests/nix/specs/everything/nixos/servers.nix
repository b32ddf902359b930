{
  services.k3s.extraFlags = [ "--etcd-snapshot-retention=10" ];
}
