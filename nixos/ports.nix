# `fabrik.firewall`: what nodes and pods of the cluster may reach. Modules say it here; ./firewall.nix makes rules of it, or
# another firewall in its place.
{ lib, ... }:
let
  ports =
    who: protocol:
    lib.mkOption {
      type = lib.types.listOf lib.types.port;
      default = [ ];
      description = "${protocol} ports that ${who} of the cluster may reach on these nodes.";
    };
in
{
  options.fabrik.firewall = {
    nodes.tcp = ports "nodes" "TCP";
    nodes.udp = ports "nodes" "UDP";
    pods.tcp = ports "pods" "TCP";
    pods.udp = ports "pods" "UDP";
  };
}
