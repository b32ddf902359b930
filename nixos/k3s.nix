# k3s, as nixpkgs runs it, with what both roles have. What differs from node to node (name, addresses, provider id, labels,
# taints, the server to join, the token) is in /etc/rancher/k3s/config.yaml.d, which ./identity.nix, the seed or a person
# has written: k3s reads those files beside its arguments (docs.k3s.io, "Configuration File").
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.fabrik;
  k3s = config.services.k3s;
  inherit (cfg.cluster) network;
  isServer = cfg.role == "server";

  wanted = cfg.cluster.kubernetes.version;
  given = k3s.package.version;
  isWanted = given == wanted || lib.hasPrefix "${wanted}." given;

  dropIns = "/etc/rancher/k3s/config.yaml.d";
  waitForAddress = pkgs.writeShellScript "fabrik-k3s-interface" ''
    # The private interface may come later than all others, and under another name after a change of the server's type.
    until [ -n "$interface" ]; do
      read -r _ interface _ < <(${pkgs.iproute2}/bin/ip -oneline -4 address show to ${network.range}) || sleep 1
    done
    mkdir -p ${dropIns}
    echo "flannel-iface: $interface" >${dropIns}/60-interface.yaml
  '';
  etcd = "/var/lib/rancher/k3s/server/db/etcd";
  # There while `fabrik restore` replaces etcd's data: a write meanwhile would be lost.
  hold = "/var/lib/rancher/k3s/server/db/fabrik-restore/holds-k3s";
  # Beside the file that may say to found, so that it is there as long as that one.
  mark = "/etc/rancher/k3s/fabrik-had-data";
  leaveMark = "[ ! -d ${etcd}/member/wal ] || [ -e ${mark} ] || echo 'this server has had the data of a cluster: docs/restore.md' >${mark}";
  guard = pkgs.writeShellScript "fabrik-k3s-guard" ''
    # `fabrik agent` has written this when the server was taken out of its cluster: started again, it would join anew.
    if [ -e /var/lib/fabrik-agent/retired ]; then
      echo "k3s waits: this server was taken out of its cluster for good (/var/lib/fabrik-agent/retired); it can be deleted" >&2
      exit 1
    fi
    # A server that has no data, no server to join and no order to found would found a cluster of its own.
    # The last file has the say.
    said() { ${pkgs.gnugrep}/bin/grep -Ehs "^[\"']?$1[\"']?:" ${dropIns}/*.y*ml | tail -n 1; }
    ${lib.optionalString isServer ''
      if [ -e ${hold} ]; then
        echo "k3s waits: a restore of etcd has begun here. \`fabrik restore\` goes on with it; without it, what was there before is in $(dirname ${hold})/etcd, and k3s starts when ${hold} is removed" >&2
        exit 1
      fi
      ${leaveMark}
      # What k3s takes for data is etcd's log, and what was removed from the cluster it puts aside.
      [ -d ${etcd}/member/wal ] && [ ! -e ${etcd}/tombstone ] && exit 0
    ''}
    [[ $(said server) =~ ^[^:]+:\ *[\"\']?https:// ]] && exit 0
    ${lib.optionalString isServer ''
      if [[ $(said cluster-init) =~ ^[^:]+:\ *[\"\']?true ]]; then
        [ ! -e ${mark} ] && exit 0
        echo "k3s waits: this server's data are gone or were removed from their cluster, and \`cluster-init: true\` in ${dropIns} would found a second one. Write \`server: https://…\` of another server in its place. Only where no other server is left and a new cluster is wanted: remove ${mark}" >&2
        exit 1
      fi
    ''}
    echo "k3s waits: no file in ${dropIns} says which server to join" >&2
    exit 1
  '';
in
{
  imports = [
    ./cluster.nix
    ./ports.nix
  ];

  options.fabrik.cni = lib.mkOption {
    type = lib.types.enum [ "flannel" "none" ];
    default = "flannel";
    description = ''
      The pods' network: k3s' own, or none, where another one is among the manifests. It has to be the same on all nodes, so
      set it in `nixos/all.nix`. It can't be changed under pods that run.
    '';
  };

  config = {
    services.k3s = {
      enable = lib.mkDefault true;
      role = cfg.role;
      # Named, so that k3s does not start on a machine that has no such file at all.
      configPath = lib.mkDefault "/etc/rancher/k3s/config.yaml";
      # The kubelet holds shutdowns up until its pods are gone.
      gracefulNodeShutdown.enable = lib.mkDefault true;
    };
    # As long as those two of its times together, at least: else the kubelet changes logind's files by itself.
    environment.etc."systemd/logind.conf.d/50-fabrik.conf".text = lib.mkDefault ''
      [Login]
      InhibitDelayMaxSec=60
    '';

    # Asked at each start, also after a failure.
    systemd.services.k3s.serviceConfig.ExecCondition = [
      guard
    ]
    ++ lib.optional (cfg.cni == "flannel") waitForAddress;
    # Once it is up, so that it holds also where the data are lost before the next start.
    systemd.services.k3s.serviceConfig.ExecStartPost = lib.mkIf isServer [ "-${pkgs.writeShellScript "fabrik-k3s-mark" leaveMark}" ];

    boot.kernelModules = [
      "br_netfilter"
      "overlay"
    ];
    boot.kernel.sysctl = {
      "net.ipv4.ip_forward" = lib.mkDefault 1;
      "net.ipv6.conf.all.forwarding" = lib.mkDefault 1;
    };

    fabrik.firewall = {
      # The kubelet: logs, exec and metrics.
      nodes.tcp = [ 10250 ];
      pods.tcp = [ 10250 ];
      # On servers: ./server.nix.
      elsewhere.tcp = [
        2379
        2380
        9642
        9643
      ];
      # VXLAN.
      nodes.udp = lib.optional (cfg.cni == "flannel") 8472;
    };

    assertions = [
      {
        assertion = isWanted;
        message = "cluster.toml: [kubernetes] version is `${wanted}`, and services.k3s.package of pool ${cfg.pool} is k3s ${given}";
      }
      {
        assertion = !(k3s.clusterInit or false);
        message = "services.k3s.clusterInit: a server that lost its disk would found a second cluster. The seed writes it to a file on the first server";
      }
    ];
  };
}
