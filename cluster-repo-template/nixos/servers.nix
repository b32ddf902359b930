# The control plane.
{ ... }:
{
  # services.k3s.extraFlags = [ "--kube-apiserver-arg=audit-log-maxage=30" ];
}
