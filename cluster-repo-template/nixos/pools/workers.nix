# The nodes of the pool `workers`. For another pool, another file beside this one.
{ ... }:
{
  # boot.kernel.sysctl."vm.max_map_count" = 262144;
}
