# What each node is, whatever its role: small, quiet, in time, and closed but for SSH keys.
{
  config,
  lib,
  options,
  ...
}:
let
  inherit (config.fabrik) cluster;
  # Until NixOS 26.11 its settings were one text.
  hasSettings = options.services ? journald && options.services.journald ? settings;
in
{
  imports = [ ./cluster.nix ];

  services.openssh = {
    enable = lib.mkDefault true;
    # ./firewall.nix opens it to those whom cluster.toml names.
    openFirewall = lib.mkDefault false;
    # Machines of the user's own have theirs beside it.
    ports = lib.mkDefault [ 22 ];
    settings = {
      PasswordAuthentication = lib.mkDefault false;
      KbdInteractiveAuthentication = lib.mkDefault false;
      PermitRootLogin = lib.mkDefault "prohibit-password";
      X11Forwarding = lib.mkDefault false;
    };
  };
  users = {
    # Nobody has a password, and nobody who was added by hand stays.
    mutableUsers = lib.mkDefault false;
    users.root.openssh.authorizedKeys.keys = builtins.attrValues cluster.ssh-keys;
  };
  # NixOS' own guard against machines that nobody can enter. A node without keys is one that nobody has to.
  users.allowNoPasswordLogin = lib.mkDefault true;

  time.timeZone = lib.mkDefault "UTC";
  services.timesyncd.enable = lib.mkDefault true;
  # Hetzner's own (docs.hetzner.com, "NTP"); pool.ntp.org stands behind them.
  networking.timeServers = lib.mkDefault [
    "ntp1.hetzner.de"
    "ntp2.hetzner.com"
    "ntp3.hetzner.net"
    "0.nixos.pool.ntp.org"
  ];

  # The disk is the pods' too. Rates are left alone: what a broken node said is what explains it.
  services.journald =
    if hasSettings then
      {
        settings.Journal = {
          SystemMaxUse = lib.mkDefault "1G";
          SystemKeepFree = lib.mkDefault "2G";
          MaxRetentionSec = lib.mkDefault "1month";
        };
      }
    else
      {
        extraConfig = lib.mkDefault ''
          SystemMaxUse=1G
          SystemKeepFree=2G
          MaxRetentionSec=1month
        '';
      };

  # The kubelet counts memory without it, and k3s would start with it all the same.
  swapDevices = lib.mkDefault [ ];
  zramSwap.enable = lib.mkDefault false;

  boot.kernel.sysctl = {
    # Each pod that watches files takes some: the kernel's 128 instances last for a dozen.
    "fs.inotify.max_user_instances" = lib.mkDefault 8192;
    "fs.inotify.max_user_watches" = lib.mkDefault 524288;
  };

  # A node evaluates nothing and builds only what no cache has.
  nix = {
    channel.enable = lib.mkDefault false;
    settings.experimental-features = [
      "nix-command"
      "flakes"
    ];
    # Pods come first, and etcd (docs/building.md, "Limits").
    daemonCPUSchedPolicy = lib.mkDefault "batch";
    daemonIOSchedClass = lib.mkDefault "idle";
  };
  documentation.enable = lib.mkDefault false;

  # What a generation is called in the boot menu: no node's name, for all nodes of the pool have it.
  system.name = lib.mkDefault "${cluster.name}-${config.fabrik.pool}";

  # Nodes keep no state that depends on it: whoever has some that does sets it.
  system.stateVersion = lib.mkDefault "26.05";
}
