# `fabrik-identity.service`: what this node is and no other, read once from its user data and Hetzner's metadata service, and
# written where others look for it: k3s' arguments and token, the agent's configuration, the machine's name, its IPv6 address.
# Later boots find it on the disk and only repeat what a boot forgets. What is written where: docs/nixos.md.
fabrik:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.fabrik.identity;
  waiting = [
    "fabrik-agent.service"
    "k3s.service"
  ];
in
{
  imports = [ ./cluster.nix ];

  options.fabrik.identity = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = config.fabrik.role == "agent";
      defaultText = lib.literalExpression "config.fabrik.role == \"agent\"";
      description = "Whether a node learns at its first boot from Hetzner who it is. Without it, somebody else writes those files, as a server's founder does.";
    };
    package = lib.mkOption {
      type = lib.types.package;
      default = fabrik.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalExpression "fabrik.packages.\${system}.default";
      description = "The fabrik to run.";
    };
    metadata = lib.mkOption {
      type = lib.types.str;
      default = "http://169.254.169.254/hetzner/v1";
      description = "Where the metadata service is.";
    };
  };

  config = lib.mkIf cfg.enable {
    systemd.services.fabrik-identity = {
      description = "fabrik: this node learns who it is";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # A disk that was another machine's starts nothing: two nodes of one name would fight.
      before = waiting;
      requiredBy = waiting;
      # The node stays who it is.
      restartIfChanged = false;
      # Nobody else starts it again, and without it the machine is no node.
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig = import ./hardening.nix // {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${lib.getExe cfg.package} --log-format json identify --metadata ${cfg.metadata} --root /";
        # The `+` is for the name, which is the kernel's. Units that were to start before it was known start now.
        ExecStartPost = [
          "+${pkgs.writeShellScript "fabrik-hostname" ''
            read -r name </etc/fabrik/hostname && printf %s "$name" >/proc/sys/kernel/hostname
          ''}"
          "-${config.systemd.package}/bin/networkctl reload"
          "-${config.systemd.package}/bin/systemctl start --no-block ${toString waiting}"
        ];
        Restart = "on-failure";
        RestartSec = "5s";
        StateDirectory = "fabrik-identity";
        StateDirectoryMode = "0700";
        ReadWritePaths = [
          "/etc"
          "/run/systemd"
        ];
        # networkd, which is not root, reads its file. Those that others must not read are made so.
        UMask = "0022";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @mount @reboot"
        ];
      };
    };
  };
}
