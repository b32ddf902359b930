# `fabrik.lib.mkCluster`: from a cluster's repository to the outputs of its flake. docs/building.md says what fabrik takes
# of them, docs/nixos.md how to use it.
fabrik:
{
  # The repository: `cluster.toml` and, where there are any, modules in `nixos/`.
  src,
  # The flake's inputs: what modules get as `inputs`, and where nixpkgs is taken from.
  inputs ? { },
  nixpkgs ? inputs.nixpkgs or fabrik.inputs.nixpkgs,
  # k3s and the operating system may move apart.
  k3s-nixpkgs ? inputs.k3s-nixpkgs or nixpkgs,
  # Modules of all nodes, of the servers, of all agents and of single pools, beside those in `nixos/`.
  modules ? { },
  # What the servers are, where `cluster.toml` has no `[servers]` whose types say it.
  servers-system ? null,
  specialArgs ? { },
}:
let
  spec = import ./spec.nix (builtins.readFile (src + "/cluster.toml"));

  serversSystem =
    spec.servers.system or (if servers-system == null then "x86_64-linux" else servers-system);
  systemFaults =
    if servers-system == null || servers-system == serversSystem then
      [ ]
    else
      [ "cluster.toml: [servers] server-types are ${serversSystem}, and `mkCluster` was told `servers-system = \"${servers-system}\"`: remove that argument" ];

  # The faults of cluster.toml end each look at what is made of it, all at once and before the module system sees any.
  faults = spec.faults ++ systemFaults ++ (if spec.cluster.kubernetes.version == "" then [ ] else versionFaults) ++ strayFaults;
  checked = value: if faults == [ ] then value else throw ("\n" + builtins.concatStringsSep "\n" faults);

  k3s =
    system:
    import ./k3s-versions.nix {
      pkgs = k3s-nixpkgs.legacyPackages.${system};
      input = if inputs ? k3s-nixpkgs then "k3s-nixpkgs" else "nixpkgs";
    };
  wantedK3s = system: (k3s system).wanted spec.cluster.kubernetes.version;
  # Of one architecture: a nixpkgs has the same releases for all of them.
  versionFaults =
    let
      wanted = wantedK3s serversSystem;
    in
    if wanted ? fault then [ "cluster.toml: [kubernetes] version: ${wanted.fault}" ] else [ ];

  # A module of a pool that is called otherwise would be left out without a word.
  strayFaults =
    let
      dir = src + "/nixos/pools";
      poolOf = file: builtins.match "(.*)\\.nix" file;
      isStray = file: poolOf file != null && !(spec.pools ? ${builtins.head (poolOf file)});
    in
    map (file: "nixos/pools/${file}: cluster.toml has no pool of that name, so fabrik gives it to no node. Move what other modules import elsewhere") (
      if builtins.pathExists dir then builtins.filter isStray (builtins.attrNames (builtins.readDir dir)) else [ ]
    );

  found = path: if builtins.pathExists (src + "/nixos/${path}.nix") then [ (src + "/nixos/${path}.nix") ] else [ ];
  given = group: modules.${group} or [ ];

  # Another encrypted file makes another system, which rolls as any other and restarts these units (docs/secrets.md).
  restarts =
    pool:
    builtins.concatMap (
      secret:
      map (unit: {
        inherit unit;
        trigger = builtins.hashString "sha256" (
          builtins.hashFile "sha256" (src + "/${secret.file}") + builtins.toJSON secret.shape
        );
      }) secret.restart
    ) (builtins.filter (secret: builtins.elem pool secret.pools) spec.secrets);

  system =
    {
      role,
      pool,
      system,
      modules,
    }:
    nixpkgs.lib.nixosSystem {
      specialArgs = { inherit inputs; } // specialArgs;
      modules = [
        fabrik.nixosModules.default
        (
          { lib, ... }:
          {
            _file = "cluster.toml";
            fabrik = {
              inherit role pool;
              inherit (spec) cluster;
            };
            services.k3s.package = lib.mkDefault (wantedK3s system).package;
            systemd.services = lib.mkMerge (
              map (
                restart:
                let
                  name = lib.removeSuffix ".service" restart.unit;
                in
                {
                  ${name} = {
                    restartTriggers = [ restart.trigger ];
                  }
                  # An instance has its template's unit, which a whole one of its own would hide.
                  // lib.optionalAttrs (lib.hasInfix "@" name) { overrideStrategy = lib.mkDefault "asDropin"; };
                }
              ) (restarts pool)
            );
            nixpkgs.hostPlatform = lib.mkDefault system;
          }
        )
      ]
      ++ found "all"
      ++ given "all"
      ++ modules;
    };

  servers = system {
    role = "server";
    pool = "servers";
    system = serversSystem;
    modules = ownOf spec.servers ++ found "servers" ++ given "servers";
  };
  agents = builtins.mapAttrs (
    pool: of:
    system {
      inherit pool;
      inherit (of) system;
      role = "agent";
      modules = ownOf of ++ found "agents" ++ given "agents" ++ found "pools/${pool}" ++ (modules.pools or { }).${pool} or [ ];
    }
  ) spec.pools;

  disksOf =
    machine: disk:
    let
      own = machine.extendModules { modules = [ ({ lib, ... }: { fabrik.disk.device = lib.mkForce disk; }) ]; };
    in
    {
      disk = own.config.system.build.fabrikDisk;
    };

  # Machines of the user's own: no metadata service tells them who they are. One system serves a pool, so GRUB for BIOS can be on
  # a disk that all its machines have under one name, or on none. sshd is where it was before, and at 22, to which a router
  # may lead from another port.
  ownOf =
    of:
    map (
      disks:
      { lib, ... }:
      {
        services.openssh.ports = lib.mkDefault (lib.unique (builtins.filter (port: port != 22) of.ports));
        fabrik.identity.metadata = lib.mkDefault null;
        fabrik.disk.device = lib.mkDefault (
          if disks != [ ] && builtins.all (disk: disk == builtins.head disks) disks then builtins.head disks else "nodev"
        );
      }
    ) (if of ? disks then [ (builtins.attrValues of.disks) ] else [ ]);

  # The first of two steps (docs/building.md): all that is new, but k3s of the minor that servers run.
  first =
    { minor, ... }:
    let
      old = (k3s serversSystem).ofMinor (toString minor);
    in
    servers.extendModules {
      modules = [
        (
          { lib, ... }:
          {
            services.k3s.package = lib.mkForce (
              old.package or (throw "fabrik.first.servers: the servers run a minor that is left before the rest changes, and ${old.fault}")
            );
            fabrik.cluster.kubernetes.version = lib.mkForce "1.${toString minor}";
          }
        )
      ];
    };

  nixosConfigurations = checked (agents // { inherit servers; });
  # { SYSTEM = { PREFIX-POOL = …; }; }
  bySystem =
    prefix: of:
    builtins.foldl' (
      all: name:
      let
        machine = nixosConfigurations.${name};
        architecture = if name == "servers" then serversSystem else spec.pools.${name}.system;
      in
      all // { ${architecture} = (all.${architecture} or { }) // { "${prefix}-${name}" = of machine; }; }
    ) { } (builtins.attrNames nixosConfigurations);
  images = bySystem "image" (machine: machine.config.system.build.fabrikImage);
in
{
  inherit nixosConfigurations;

  fabrik = {
    inherit faults;
    # Of each machine of the user's own, what makes its disk.
    machines = checked (
      builtins.foldl' (all: pool: all // builtins.mapAttrs (_: disksOf agents.${pool}) spec.pools.${pool}.disks or { })
        (builtins.mapAttrs (_: disksOf servers) spec.servers.disks or { })
        (builtins.attrNames spec.pools)
    );
    first.servers = checked first;
  };

  # Each is the disk of a new node of that pool; `image` is that of a server.
  packages = images // {
    ${serversSystem} = images.${serversSystem} // {
      image = images.${serversSystem}.image-servers;
    };
  };

  # What the repository is worked with: the fabrik that its nodes run, and what opens its secrets. It can be had whatever is
  # wrong with cluster.toml.
  devShells = builtins.mapAttrs (
    system: packages:
    let
      pkgs = nixpkgs.legacyPackages.${system};
    in
    {
      default = pkgs.mkShellNoCC {
        packages = [
          packages.default
          pkgs.age
          pkgs.sops
        ];
      };
    }
  ) fabrik.packages;

  checks = bySystem "system" (machine: machine.config.system.build.toplevel);
}
