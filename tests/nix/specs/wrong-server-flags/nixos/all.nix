{
  services.k3s.extraFlags = [
    "--kubelet-arg=max-pods=200"
    "--tls-san=api.example.com"
    "--disable servicelb"
    "--etcd-s3"
  ];
  services.k3s.disable = [ "metrics-server" ];
}
