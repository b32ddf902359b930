# `services.fabrik`: runs `fabrik run` on a control-plane node, with the configuration file that `fabrik found` also
# writes. Secrets are files outside the store; this module only holds their paths.
fabrik:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.fabrik;
  toml = pkgs.formats.toml { };

  path = lib.types.addCheck lib.types.str (lib.hasPrefix "/") // {
    description = "absolute path of a file that is not in the store";
  };
  required = type: description: lib.mkOption { inherit type description; };
  optional =
    type: default: description:
    lib.mkOption { inherit type default description; };
  # A table of the file, whose keys are these and no others.
  table = options: lib.mkOption {
    type = lib.types.submodule { inherit options; };
    default = { };
    description = "A table of the configuration file.";
  };
  # A key that is left out of the file where it is not set.
  maybe = description: optional (lib.types.nullOr path) null description;

  etcd = "/var/lib/rancher/k3s/server/tls/etcd";

  withoutNulls = lib.filterAttrsRecursive (_: value: value != null);
  isMachines = cfg.configFile != null;
  configFile = if isMachines then cfg.configFile else toml.generate "fabrik.toml" (withoutNulls cfg.settings);
in
{
  options.services.fabrik = {
    enable = lib.mkEnableOption "fabrik, which makes the cluster follow its git repository";

    package = optional lib.types.package fabrik.packages.${pkgs.stdenv.hostPlatform.system}.default "The fabrik to run." // {
      defaultText = lib.literalExpression "fabrik.packages.\${system}.default";
    };

    configFile = optional (lib.types.nullOr path) null ''
      A configuration that is a file of this machine, as `fabrik found` writes it, instead of `settings`. One system serves all
      servers, so what only one of them is can't be in it.
    '';

    credentials = optional (lib.types.attrsOf path) { } ''
      Files that systemd reads for fabrik and shows to it alone. The configuration names them as
      `/run/credentials/fabrik.service/NAME`. A new content is seen after a restart.
    '';

    settings = {
      node = required lib.types.str "The name of this server's Node.";
      state-dir = optional path "/var/lib/fabrik" "Where the clone of the repository is, and what is kept of systems.";
      listen = optional lib.types.str "127.0.0.1:9640" "Where health, metrics, the observation and the webhook are served.";
      cluster = table {
        name = required lib.types.str "The cluster's name, as in cluster.toml.";
        id = required lib.types.str "The cluster's id, as founding printed it.";
      };
      kubernetes = table {
        servers = required (lib.types.listOf lib.types.str) "API servers, tried in order.";
        ca-file = required path "The CA of the API servers.";
        leader-token-file = required path "Where the leader's token is kept.";
        applier-token-file = required path "Where the applier's token is kept.";
        admin-kubeconfig = maybe "Used only to make the two tokens when they are missing or have ended.";
        join-urls = required (lib.types.listOf lib.types.str) "Where a worker joins, tried in order.";
      };
      repository = table {
        url = required lib.types.str "The cluster's repository.";
        branch = optional lib.types.str "main" "The branch to follow.";
        deploy-key-file = maybe "The key for SSH.";
        known-hosts-file = maybe "The pinned host keys for SSH.";
        token-file = maybe "A file with an access token, for HTTPS.";
        poll = optional lib.types.str "15s" "How often the branch is looked at, webhooks aside.";
      };
      secrets = table {
        age-key-file = required path "The cluster's age identity.";
      };
      hetzner = table {
        endpoint = optional lib.types.str "https://api.hetzner.cloud/v1" "Where Hetzner's API is.";
      };
      webhook = optional (lib.types.nullOr (lib.types.submodule {
        options.secret-file = required path "The secret that the git server signs its calls with.";
        options.listen = optional (lib.types.nullOr lib.types.str) null "An address for the webhook alone, for a git server elsewhere.";
      })) null "How calls of the git server are verified; without it there is no webhook.";
      etcd = optional (lib.types.nullOr (lib.types.submodule {
        options.endpoint = optional lib.types.str "https://127.0.0.1:2379" "Where this server's etcd answers.";
        options.ca-file = optional path "${etcd}/server-ca.crt" "The CA of etcd's members.";
        options.certificate-file = optional path "${etcd}/client.crt" "The certificate of a client.";
        options.key-file = optional path "${etcd}/client.key" "Its key.";
        options.snapshot-dir = optional path "/var/lib/rancher/k3s/server/db/snapshots" "Where k3s keeps snapshots.";
      })) { } "How etcd is asked before a server goes down. `null` where the cluster's data are in another store.";
      nix = optional (lib.types.nullOr (lib.types.submodule {
        options.program-dir = optional path "/run/current-system/sw/bin" "Where nix and nix-store are.";
        options.store = maybe "Another store than the machine's own.";
        options.signing-key-file = required path "The cluster's key, which signs what nodes may run.";
        options.memory-max = optional lib.types.str "4GiB" "What the evaluation of one pool may take.";
        options.time-limit = optional lib.types.str "30m" "How long evaluating a pool may take, and building it.";
      })) null "How systems are evaluated and built; without it, no commit changes what nodes run.";
      cache = optional (lib.types.nullOr (lib.types.submodule {
        options.listen = required lib.types.str "An address on the private network, for nodes.";
        options.certificate-file = required path "The API server's certificate.";
        options.key-file = required path "Its key.";
        options.client-ca-file = required path "Who signs the certificates of nodes.";
      })) null "How what was built here is served to nodes.";
      join = optional (lib.types.nullOr (lib.types.submodule {
        options.listen = required lib.types.str "An address on the private network, for new servers.";
        options.certificate-file = required path "The API server's certificate.";
        options.key-file = required path "Its key.";
        options.k3s-token-file = required path "What k3s' servers join with.";
      })) null "Where new servers of the control plane ask for their keys.";
      leader-election = table {
        lease-duration = optional lib.types.str "12s" "When the others may take the lead.";
        renew-deadline = optional lib.types.str "8s" "When a leader that could not renew stops acting.";
        retry-period = optional lib.types.str "1s" "How often the lead is renewed or asked for.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    systemd.services.fabrik = {
      description = "fabrik: the cluster follows its git repository";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # Stopped first and started last, it would be gone for as long as an activation takes.
      stopIfChanged = false;
      # However often it ends, nobody else starts it again.
      unitConfig = {
        StartLimitIntervalSec = 0;
      }
      // lib.optionalAttrs isMachines { ConditionPathExists = configFile; };
      # ssh for repositories by SSH, git for local paths, sops for secrets, k3s for snapshots of etcd, systemd to bound what
      # an evaluation takes.
      path = [
        pkgs.git
        pkgs.openssh
        pkgs.sops
        config.services.k3s.package
        config.systemd.package
      ];
      environment = {
        SSL_CERT_FILE = "/etc/ssl/certs/ca-certificates.crt";
        # Nix' daemon does what needs to write to the store.
        NIX_REMOTE = "daemon";
      };
      serviceConfig = import ./hardening.nix // {
        ExecStart = "${lib.getExe cfg.package} --log-format json run --config ${configFile}";
        Restart = "always";
        RestartSec = "2s";
        # A leader that stops in order hands over before.
        TimeoutStopSec = "20s";
        StateDirectory = "fabrik";
        StateDirectoryMode = "0700";
        # etcd lives beside it, and what is pushed is read here.
        MemoryMax = "1536M";
        ProcSubset = "pid";
        # Tokens are renewed beside each other's old ones.
        ReadWritePaths =
          if isMachines then
            [
              "/var/lib/fabrik"
              (dirOf configFile)
            ]
          else
            lib.unique ([ cfg.settings.state-dir ] ++ map dirOf [
              cfg.settings.kubernetes.leader-token-file
              cfg.settings.kubernetes.applier-token-file
            ]);
        LoadCredential = lib.mapAttrsToList (name: file: "${name}:${file}") cfg.credentials;
        # Also for what runs in a scope. What is refused is told as an error: Nix and k3s go on without more stack.
        SystemCallFilter = [
          "@system-service"
          "~@privileged @mount @reboot"
        ];
        SystemCallErrorNumber = "EPERM";
      };
    };
  };
}
