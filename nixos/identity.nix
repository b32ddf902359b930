# `fabrik-identity.service`: what this node is and no other, read once from its user data and Hetzner's metadata service, and
# written where others look for it: k3s' arguments and token, the agent's configuration, the machine's name, its IPv6 address.
# Later boots find it on the disk and only repeat what a boot forgets. What is written where: docs/nixos.md.
# A machine of the user's own asks nobody: in its network anybody could answer. It waits for the file that it is told by.
# `fabrik-founding.service`: the end of a server's first boot, where fabrik gave it its secrets.
fabrik:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.fabrik.identity;
  isServer = config.fabrik.role == "server";
  waiting = [
    "fabrik-agent.service"
    "k3s.service"
  ]
  ++ lib.optional isServer "fabrik-founding.service";
in
{
  imports = [ ./cluster.nix ];

  options.fabrik.identity = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Whether a node learns at its first boot from Hetzner who it is. Without it, somebody else writes those files. A server whose user data is not fabrik's is left as it is.";
    };
    package = lib.mkOption {
      type = lib.types.package;
      default = fabrik.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalExpression "fabrik.packages.\${system}.default";
      description = "The fabrik to run.";
    };
    metadata = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = "http://169.254.169.254/hetzner/v1";
      description = "Where the metadata service is. `null` where nobody is asked, as on machines of your own: they are told by a file.";
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
      unitConfig = {
        StartLimitIntervalSec = 0;
      }
      # Where it is skipped, what requires it starts all the same (systemd.unit(5), `Requires=`), finds nothing to start with, and
      # waits too: a system that is switched to has no unit that failed.
      // lib.optionalAttrs (cfg.metadata == null) {
        ConditionPathExists = [
          "|/var/lib/fabrik-identity/machine.json"
          "|/var/lib/fabrik-identity/identity.json"
        ];
      };
      serviceConfig = import ./hardening.nix // {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${lib.getExe cfg.package} --log-format json identify ${lib.optionalString (cfg.metadata != null) "--metadata ${cfg.metadata} "}--root /${lib.optionalString isServer " --or-by-hand"}";
        # The `+` is for the name, which is the kernel's. Units that were to start before it was known start now.
        ExecStartPost = [
          "+${pkgs.writeShellScript "fabrik-hostname" ''
            [ ! -e /etc/fabrik/hostname ] || { read -r name </etc/fabrik/hostname && printf %s "$name" >/proc/sys/kernel/hostname; }
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
        ]
        # The key of whoever seeds the cluster is let in there.
        ++ lib.optional isServer "/root";
        ProtectHome = !isServer;
        # networkd, which is not root, reads its file. Those that others must not read are made so.
        UMask = "0022";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @mount @reboot"
        ];
      };
    };

    # A first server is founded by whoever hands its secrets over, and this goes on where that was cut off.
    systemd.services.fabrik-founding = lib.mkIf isServer {
      description = "fabrik: this server is founded with what it was given";
      wantedBy = [ "multi-user.target" ];
      after = [ "k3s.service" ];
      unitConfig = {
        ConditionPathExists = [
          "/var/lib/fabrik-identity/founding.json"
          "!/etc/fabrik/config.toml"
        ];
        StartLimitIntervalSec = 0;
      };
      serviceConfig = import ./hardening.nix // {
        Type = "oneshot";
        ExecStart = "${lib.getExe cfg.package} --log-format json receive start";
        Restart = "on-failure";
        RestartSec = "5s";
        ReadWritePaths = [
          "/etc/fabrik"
          "/var/lib/fabrik-identity"
        ];
        SystemCallFilter = [
          "@system-service"
          "~@privileged @mount @reboot"
        ];
      };
    };
  };
}
