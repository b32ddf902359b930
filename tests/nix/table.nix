# The specs of specs/, each with what is expected of it in its lines that begin with `#> `: the faults that are told, or for
# each pool its system, its k3s with all arguments, and what it is refused for. A folder `nixos/` beside it is the user's own.
let
  stub = import ./stub.nix;
  inherit (stub) lib;

  mkCluster = args: import ../../nixos/lib/mk-cluster.nix stub.flake ({ inputs.fabrik = stub.flake; } // args);
  names = builtins.attrNames (builtins.readDir ./specs);

  said =
    spec:
    let
      cluster = mkCluster { src = ./specs + "/${spec}"; };
      machine =
        name:
        let
          inherit (cluster.nixosConfigurations.${name}) config;
          inherit (config.services) k3s;
          flags = k3s.extraFlags ++ map (it: "--disable=${it}") k3s.disable;
          refusals = builtins.filter (it: !it.assertion) config.assertions;
        in
        [ "${name}: ${config.nixpkgs.hostPlatform} ${k3s.package.version} k3s ${lib.concatStringsSep " " ([ k3s.role ] ++ flags)}" ]
        ++ map (it: "${name}: ${it.message}") refusals;
    in
    if cluster.fabrik.faults != [ ] then
      cluster.fabrik.faults
    else
      lib.concatMap machine (builtins.attrNames cluster.nixosConfigurations);

  expected =
    spec:
    let
      lines = lib.splitString "\n" (builtins.readFile (./specs + "/${spec}/cluster.toml"));
      rest = line: builtins.substring 3 (builtins.stringLength line) line;
    in
    map rest (builtins.filter (lib.hasPrefix "#> ") lines);

  compare =
    spec:
    let
      is = said spec;
    in
    if is == expected spec then [ ] else [ "specs/${spec}/cluster.toml: it says now" ] ++ map (line: "#> ${line}") is;
  servers35 = (mkCluster { src = ./specs/exact-release; }).fabrik.first.servers {
    version = "1.35.6+k3s1";
    minor = 35;
  };
  servers36 = (mkCluster { src = ./specs/exact-release; }).nixosConfigurations.servers;
  versions = map (machine: machine.config.services.k3s.package.version);
in
{
  # The two steps of servers that run 1.35 (docs/building.md): their k3s, and what the first one is refused for.
  steps = [
    (versions [
      servers35
      servers36
    ])
    (builtins.filter (it: !it.assertion) servers35.config.assertions)
  ];
  # What specs/overridden has otherwise than fabrik would.
  overridden =
    let
      inherit ((mkCluster { src = ./specs/overridden; }).nixosConfigurations.workers) config;
    in
    [
      config.services.openssh.enable
      config.swapDevices
      config.boot.loader.timeout
      config.fileSystems."/"
      config.services.k3s.gracefulNodeShutdown.enable
      (config.networking.nftables or "no firewall")
      (config.systemd.services ? fabrik-identity)
      (config.system.build ? fabrikImage)
    ];
  # Whether each pool's interfaces take the size of packets that Hetzner announces.
  mtu = builtins.mapAttrs (_: machine: machine.config.systemd.network.networks."10-fabrik".dhcpV4Config.UseMTU or false)
    (mkCluster { src = ./specs/everything; }).nixosConfigurations;
  # What each pool's nodes take for their own on `lo`.
  loopback = builtins.mapAttrs (_: machine: machine.config.systemd.network.networks."10-fabrik-floating-ip".address or [ ])
    (mkCluster { src = ./specs/everything; }).nixosConfigurations;
  # The firewall as nft reads it: the rules of ours in the place that NixOS has for them (nixos/modules/services/networking).
  firewall = builtins.mapAttrs (_: machine: with machine.config.networking; ''
    table inet nixos-fw {
      chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        ${firewall.extraInputRules}
      }
    }
    table inet fabrik {
      ${nftables.tables.fabrik.content}
    }
  '') (mkCluster { src = ./specs/everything; }).nixosConfigurations;
  # Which pools have a unit that another secret restarts, and by how many triggers.
  restarts =
    let
      triggers = machine: builtins.length (machine.config.systemd.services.wg0.restartTriggers or [ ]);
    in
    builtins.mapAttrs (_: triggers) (mkCluster { src = ./specs/everything; }).nixosConfigurations;
  # What Nix says of a wrong one, and of one that is no TOML.
  wrong = builtins.attrNames (mkCluster { src = ./specs/wrong-everywhere; }).nixosConfigurations;
  broken = import ../../nixos/lib/spec.nix "[cluster\n";
  # What there is an image of.
  images = builtins.mapAttrs (_: builtins.attrNames) (mkCluster { src = ./specs/both-architectures; }).packages;
  # Of machines of the user's own: where GRUB is for BIOS, what makes each machine's disk, without which files none learns
  # who it is, and where sshd is and who reaches it.
  own =
    let
      cluster = mkCluster { src = ./specs/own-machines; };
      pools = of: map (pool: of cluster.nixosConfigurations.${pool}.config) [ "attic" "home" "servers" ];
    in
    {
      grub = pools (config: config.fabrik.disk.device);
      told = pools (config: builtins.length (config.systemd.services.fabrik-identity.unitConfig.ConditionPathExists or [ ]));
      ssh = pools (config: [
        config.services.openssh.ports
        (builtins.head (lib.splitString "\n" config.networking.firewall.extraInputRules))
      ]);
      disks = builtins.mapAttrs (_: machine: machine.disk) (
        cluster.fabrik.machines // (mkCluster { src = ./specs/own-servers; }).fabrik.machines
      );
    };
  count = builtins.length names;
  good = builtins.filter (name: !lib.hasPrefix "wrong-" name) names;
  differences = lib.concatStringsSep "\n" (lib.concatMap compare names);
}
