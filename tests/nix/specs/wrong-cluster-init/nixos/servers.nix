{
  services.k3s.clusterInit = true;
  services.k3s.extraFlags = [
    "--cluster-init"
    "--cluster-cidr 10.1.0.0/16"
  ];
}
