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
  elsewhere =
    protocol:
    ports "" protocol // {
      description = "${protocol} ports that other nodes have for nodes alone. Pods of these nodes can't reach them, nor those of `nodes` that are not in `pods`, on any node.";
    };
in
{
  options.fabrik.firewall = {
    nodes.tcp = ports "nodes" "TCP";
    nodes.udp = ports "nodes" "UDP";
    elsewhere.tcp = elsewhere "TCP";
    elsewhere.udp = elsewhere "UDP";
    pods.tcp = ports "pods" "TCP";
    pods.udp = ports "pods" "UDP";
  };
}
