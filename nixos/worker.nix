# A node that runs pods and nothing of the control plane: `k3s agent`. It has no flag of servers, no repository, and no token
# but the one that it joins with.
{ config, lib, ... }:
let
  cfg = config.fabrik;
  # docs.k3s.io/cli/server, those that `k3s agent` does not know and stops at.
  serverFlags = import ./lib/flags.nix lib config.services.k3s.extraFlags {
    prefixes = [
      "--agent-token"
      "--cluster-"
      "--datastore-"
      "--etcd-"
      "--flannel-backend"
      "--flannel-ipv6-masq"
      "--helm-job-image"
      "--kube-apiserver-"
      "--kube-cloud-controller-manager-"
      "--kube-controller-manager-"
      "--kube-scheduler-"
      "--secrets-encryption"
      "--service-"
      "--tls-san"
      "--write-kubeconfig"
    ];
    names = [
      "--advertise-address"
      "--advertise-port"
      "--bind-address"
      "--default-local-storage-path"
      "--disable"
      "--disable-agent"
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
      "--flannel-external-ip"
      "--servicelb-namespace"
      "--supervisor-metrics"
    ];
  };
  # NixOS has it as an option of its own, and passes it to agents as well.
  disabled = map (name: "--disable=${name}") (config.services.k3s.disable or [ ]);
in
{
  imports = [ ./k3s.nix ];

  config = lib.mkIf (cfg.role == "agent") {
    assertions = [
      {
        assertion = serverFlags == [ ];
        message = "services.k3s.extraFlags of pool ${cfg.pool}: `k3s agent` does not know ${toString serverFlags}. Put them into nixos/servers.nix";
      }
      {
        assertion = disabled == [ ];
        message = "services.k3s.disable of pool ${cfg.pool}: `k3s agent` does not know ${toString disabled}. Put it into nixos/servers.nix";
      }
    ];
  };
}
