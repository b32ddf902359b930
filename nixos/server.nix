# A control-plane node: k3s' servers with etcd, and `fabrik run`. What has to be the same on all servers
# (docs.k3s.io/cli/server, "Critical Configuration Values") is from cluster.toml or written here, and nowhere else.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.fabrik;
  inherit (cfg.cluster) api network;

  # What the repository has to say of, and nobody else: an ingress, load balancers, a storage class.
  packaged = [
    "traefik"
    "servicelb"
    "local-storage"
  ];
  # What a server may be told once, by cluster.toml or by this module.
  told = import ./lib/flags.nix lib config.services.k3s.extraFlags {
    names = [
      "--cluster-cidr"
      "--cluster-init"
      "--flannel-backend"
      "--secrets-encryption"
      "--service-cidr"
    ];
  };
  twice = builtins.filter (flag: flag == "--cluster-init" || lib.count (other: other == flag) told > 1) (lib.unique told);
  # Older releases of NixOS have no option for it.
  hasDisable = options.services.k3s ? disable;
in
{
  imports = [ ./k3s.nix ];

  config = lib.mkIf (cfg.role == "server") {
    services.k3s = {
      extraFlags = [
        "--cluster-cidr=${network.pods}"
        "--service-cidr=${network.services}"
        # Secrets are encrypted in etcd and in its snapshots.
        "--secrets-encryption"
      ]
      ++ map (san: "--tls-san=${san}") (lib.optional (api.name != null) api.name ++ api.addresses)
      ++ (
        if cfg.cni == "flannel" then
          [ "--flannel-backend=vxlan" ]
        else
          [
            "--flannel-backend=none"
            "--disable-network-policy"
          ]
      )
      ++ lib.optionals (!hasDisable) (map (name: "--disable=${name}") packaged);
    }
    // lib.optionalAttrs hasDisable { disable = lib.mkDefault packaged; };

    assertions = [
      {
        assertion = twice == [ ];
        message = "services.k3s.extraFlags of the servers: ${toString twice} is not to be set here. The ranges are in cluster.toml, the pods' network is `fabrik.cni`, and who founds the cluster is said by a file on that server";
      }
    ];

    # Hetzner sends packets for a floating IP to the server that it is assigned to, which has to take it for its own
    # (docs.hetzner.com, "Cloud: Floating IPs: Persistent configuration"). Each one does, always, so that it can move without a
    # word to them; on `lo`, whose name is the same everywhere: Linux takes packets for any address of its own on any interface.
    systemd.network.networks."10-fabrik-floating-ip" = lib.mkIf (api.floating-ip != null) {
      matchConfig.Name = "lo";
      address = [ "${api.floating-ip}/${if lib.hasInfix ":" api.floating-ip then "128" else "32"}" ];
    };

    # The API server and k3s' supervisor, etcd, what fabrik builds (docs/building.md, "What nodes see"), and where new servers ask
    # for their keys.
    fabrik.firewall = {
      nodes.tcp = [
        6443
        2379
        2380
        9642
        9643
      ];
      pods.tcp = [ 6443 ];
    };
    services.fabrik = {
      enable = lib.mkDefault true;
      # Which server it is, and what it was founded with, is in a file of the machine.
      configFile = lib.mkDefault "/etc/fabrik/config.toml";
    };
  };
}
