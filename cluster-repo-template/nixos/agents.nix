# All workers.
{ ... }:
{
  # services.k3s.extraFlags = [ "--kubelet-arg=max-pods=200" ];
}
