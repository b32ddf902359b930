# The host's firewall. It lets in what Hetzner's does (`[firewall]` of cluster.toml, and ICMP), in both families, and what
# nodes and pods of the cluster need of one another. Hetzner's does not see the private network, and a machine elsewhere
# has none.
{ config, lib, ... }:
let
  cfg = config.fabrik.firewall;
  inherit (config.fabrik) cluster;
  inherit (cluster) network;
  isServer = config.fabrik.role == "server";

  set = items: "{ ${lib.concatMapStringsSep ", " toString items} }";
  # One rule for each family, for those of `sources` that are of it.
  accept =
    sources: protocol: list:
    let
      of = family: builtins.filter (source: lib.hasInfix ":" source == (family == "ip6")) sources;
      rule =
        family:
        lib.optionalString (of family != [ ] && list != [ ])
          "${family} saddr ${set (of family)} ${protocol} dport ${set (lib.unique list)} accept\n";
    in
    rule "ip" + rule "ip6";

  # Of what matches, what is for ports that nodes have for one another alone.
  keep =
    match:
    let
      kept = protocol: lib.unique (builtins.filter (port: !builtins.elem port cfg.pods.${protocol}) (cfg.nodes.${protocol} ++ cfg.elsewhere.${protocol}));
      of = protocol: lib.optionalString (kept protocol != [ ]) "${match} ${protocol} dport ${set (kept protocol)} drop\n";
    in
    of "tcp" + of "udp";
in
{
  imports = [
    ./cluster.nix
    ./ports.nix
  ];

  config = {
    assertions = [
      {
        assertion = config.networking.nftables.enable;
        message = "networking.nftables.enable: without it none of fabrik's rules holds, neither what lets nodes in nor what keeps pods out of the user data. For a firewall of your own: `disabledModules = [ inputs.fabrik.nixosModules.firewall ]`";
      }
    ];
    networking = {
      nftables.enable = lib.mkDefault true;
      firewall = {
        enable = lib.mkDefault true;
        # What a pod sends may come back another way.
        checkReversePath = lib.mkDefault "loose";
        logRefusedConnections = lib.mkDefault false;
        extraInputRules =
          accept cluster.firewall.ssh-from "tcp" config.services.openssh.ports
          + lib.optionalString isServer (accept cluster.firewall.api-from "tcp" [ 6443 ])
          # A pod comes from another node with that node's address.
          + accept [ network.range ] "tcp" (cfg.nodes.tcp ++ cfg.pods.tcp)
          + accept [ network.range ] "udp" (cfg.nodes.udp ++ cfg.pods.udp)
          # kube-proxy's own sockets, which load balancers ask whether a node has a pod of theirs (healthCheckNodePort).
          + accept [ network.range ] "tcp" [ "30000-32767" ]
          + accept [ network.pods ] "tcp" cfg.pods.tcp
          + accept [ network.pods ] "udp" cfg.pods.udp;
      };

      nftables.tables.fabrik = {
        family = "inet";
        content = ''
          # Before Kubernetes rewrites destinations, when `input` and `forward` are too late.
          chain metadata {
            type filter hook prerouting priority raw;
            # What comes in here and is for the metadata service is from a pod, which would read the user data of its node. What
            # the node asks for itself does not come in.
            ip daddr 169.254.169.254 drop
            # flannel's bridge: no pod sends with the address of a node.
            ${lib.optionalString (config.fabrik.cni or "none" == "flannel") "iifname \"cni0\" ip saddr != ${network.pods} drop"}
          }
          # What a pod sends to another node leaves with the address of its own, so it is stopped here: that one would take it
          # for a node's. This is after destinations were rewritten. Nobody reaches these ports by a service, whose NodePort may
          # have been asked on another node.
          chain pods-to-nodes {
            type filter hook forward priority filter;
            ct state established,related accept
            ${keep "ip saddr ${network.pods} ip daddr ${network.range}"}
            ${keep "ct status dnat ip daddr ${network.range}"}
          }
          chain services-to-nodes {
            type filter hook input priority filter;
            ct state established,related accept
            ${keep "ct status dnat"}
          }
          # NodePorts are the private network's, as with Hetzner's firewall.
          chain node-ports {
            type filter hook prerouting priority mangle;
            ct state new iifname != "lo" fib daddr type local meta l4proto { tcp, udp } th dport 30000-32767 jump from-cluster
          }
          chain from-cluster {
            ip saddr { ${network.range}, ${network.pods} } accept
            drop
          }
        '';
      };
    };
  };
}
