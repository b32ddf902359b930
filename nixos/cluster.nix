# `fabrik.cluster`, `fabrik.role`, `fabrik.pool`: what `cluster.toml` says of the cluster, and which of its nodes these are.
# `lib.mkCluster` sets them; other modules read them. What has to be the same on all servers comes from here alone.
{ lib, ... }:
let
  text = description: lib.mkOption { type = lib.types.str; inherit description; };
  maybe =
    description:
    lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      inherit description;
    };
  texts =
    description:
    lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      inherit description;
    };
in
{
  options.fabrik = {
    role = lib.mkOption {
      type = lib.types.enum [ "server" "agent" ];
      description = "Whether these nodes are the control plane or run pods alone.";
    };
    pool = text "The pool of `cluster.toml` that these nodes are of; `servers` for the control plane.";
    cluster = {
      name = text "`[cluster] name`.";
      kubernetes.version = text "`[kubernetes] version`: a minor or a release of k3s.";
      network = {
        range = text "`[network] range`: the private network.";
        nodes = text "`[network] nodes`: the part of it that nodes get addresses from.";
        pods = text "`[network] pods`.";
        services = text "`[network] services`.";
      };
      firewall = {
        ssh-from = texts "`[firewall] ssh-from`.";
        api-from = texts "`[firewall] api-from`.";
      };
      api = {
        name = maybe "`[api] name`: a DNS name that leads to the API servers.";
        addresses = texts "`address` of `[api.load-balancer]` and `[api.floating-ip]`: they lead to the API servers.";
        floating-ip = maybe "`[api.floating-ip] address`: any of the servers may have it.";
      };
      ssh-keys = lib.mkOption {
        type = lib.types.attrsOf lib.types.str;
        default = { };
        description = "`[ssh-keys]`: who may log in as root.";
      };
    };
  };
}
