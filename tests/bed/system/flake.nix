# The systems of a test bed's machines: what fabrik reads of a NixOS closure, made without nixpkgs in milliseconds.
# systems.json says what is in them.
{
  outputs =
    { self }:
    let
      pools = builtins.fromJSON (builtins.readFile ./systems.json);

      boot =
        { kernel, ... }:
        let
          file = name: text: builtins.toFile name (text + "\n");
        in
        {
          kernel = file "linux-${kernel}" "kernel ${kernel}";
          initialRamdisk = file "initrd-linux-${kernel}" "initrd of ${kernel}";
          modules = file "linux-${kernel}-modules" "modules of ${kernel}";
          systemd = file "systemd-258" "systemd 258";
        };

      # As mk-cluster.nix: with another encrypted file a service has another trigger, and its system is another one.
      restarts =
        src: pool:
        let
          file = src + "/cluster.toml";
          spec = import ./nixos/spec.nix (if builtins.pathExists file then builtins.readFile file else "");
          trigger =
            { file, shape, ... }:
            builtins.hashString "sha256" (builtins.hashFile "sha256" (src + "/${file}") + builtins.toJSON shape);
          lines = secret: map (unit: "${unit} ${trigger secret}\n") secret.restart;
          ours = builtins.filter (secret: builtins.elem pool secret.pools) spec.secrets;
        in
        builtins.concatStringsSep "" (builtins.concatMap lines ours);

      toplevel =
        src: pool: settings:
        let
          boots = boot settings;
        in
        if !settings.evaluates then
          throw "the option `services.web.enable' does not exist: pool ${pool} asks for it"
        else
          derivation {
            name = "nixos-system-${settings.name or pool}-25.11";
            inherit (settings)
              platform
              package
              k3s
              fabrik
              ;
            system = settings.platform;
            builder = "/bin/sh";
            args = [ ./nixos/toplevel.sh ];
            PATH = "/bin";
            switch = ./nixos/switch-to-configuration.sh;
            inherit (boots) kernel modules systemd;
            initrd = boots.initialRamdisk;
            # Files that make the machine misbehave, by their names: sick, panics, hangs.
            inherit (settings) faults;
            restarts = restarts src pool;
            builds = if settings.builds then "yes" else "no";
          };

      nixos = src: pool: settings: {
        config.services.k3s.package.version = settings.k3s;
        config.system.build = {
          inherit (boot settings) kernel initialRamdisk;
          toplevel = toplevel src pool settings;
        };
      };
    in
    {
      nixosConfigurations = builtins.mapAttrs (nixos ./.) pools;
      # As another commit's system with the k3s of old: the first of two steps.
      fabrik.first.servers = { version, ... }: nixos ./. "servers" (pools.servers // { k3s = version; });
      # What makes the disk of a machine of the user's own: nothing here, where a folder is a disk.
      fabrik.machines =
        let
          spec = builtins.fromTOML (builtins.readFile ./cluster.toml);
          disk = name: {
            disk = derivation {
              name = "disk-${name}";
              system = pools.servers.platform;
              builder = "/bin/sh";
              args = [
                "-c"
                "echo >$out"
              ];
            };
          };
          names = builtins.concatMap (pool: builtins.attrNames (pool.machines or { })) (builtins.attrValues spec.pools);
        in
        builtins.listToAttrs (map (name: { inherit name; value = disk name; }) names);

      # Stands in for fabrik's own library, where it is the input of a repository that `fabrik init` made: the pools and the
      # k3s are those of cluster.toml, and all workers have one system.
      lib.mkCluster =
        { src, inputs }:
        let
          spec = builtins.fromTOML (builtins.readFile (src + "/cluster.toml"));
          wanted = spec.kubernetes.version;
          # A minor is the release of it that the bed has.
          k3s = if builtins.match "1\\.[0-9]+" wanted == null then wanted else pools.servers.k3s;
          system =
            pool: k3s:
            let
              name = if pool == "servers" then pool else "workers";
            in
            nixos src name (pools.${name} // { inherit k3s; });
        in
        {
          nixosConfigurations = builtins.mapAttrs (pool: _: system pool k3s) (
            spec.pools // { servers = { }; }
          );
          fabrik.first.servers = { version, ... }: system "servers" version;
        };
    };
}
