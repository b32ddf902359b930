# A node that runs pods and nothing of the control plane: `k3s agent`. It has no flag of servers, no repository, and no token
# but the one that it joins with.
{ config, lib, ... }:
let
  cfg = config.fabrik;
  # docs.k3s.io/cli/server, those that `k3s agent` does not know and stops at.
  serverFlags = import ./lib/flags.nix lib config.services.k3s.extraFlags [
    "--advertise-address"
    "--advertise-port"
    "--agent-token"
    "--agent-token-file"
    "--bind-address"
    "--cluster-cidr"
    "--cluster-dns"
    "--cluster-domain"
    "--cluster-init"
    "--cluster-reset"
    "--datastore-endpoint"
    "--default-local-storage-path"
    "--disable"
    "--disable-apiserver"
    "--disable-cloud-controller"
    "--disable-controller-manager"
    "--disable-etcd"
    "--disable-helm-controller"
    "--disable-kube-proxy"
    "--disable-network-policy"
    "--disable-scheduler"
    "--egress-selector-mode"
    "--embedded-registry"
    "--etcd-expose-metrics"
    "--etcd-snapshot-retention"
    "--etcd-snapshot-schedule-cron"
    "--flannel-backend"
    "--flannel-external-ip"
    "--flannel-ipv6-masq"
    "--kube-apiserver-arg"
    "--kube-controller-manager-arg"
    "--kube-scheduler-arg"
    "--secrets-encryption"
    "--service-cidr"
    "--service-node-port-range"
    "--tls-san"
    "--write-kubeconfig"
    "--write-kubeconfig-mode"
  ];
in
{
  imports = [ ./k3s.nix ];

  config = lib.mkIf (cfg.role == "agent") {
    assertions = [
      {
        assertion = serverFlags == [ ];
        message = "services.k3s.extraFlags of pool ${cfg.pool}: `k3s agent` does not know ${toString serverFlags}. Put them into nixos/servers.nix";
      }
    ];
  };
}
