# The systems of a test bed's machines: what fabrik reads of a NixOS closure, made without nixpkgs in milliseconds.
# systems.json says what is in them.
{
  outputs =
    { self }:
    let
      pools = builtins.fromJSON (builtins.readFile ./systems.json);

      toplevel =
        pool: settings:
        let
          file = name: text: builtins.toFile name (text + "\n");
        in
        if !settings.evaluates then
          throw "the option `services.web.enable' does not exist: pool ${pool} asks for it"
        else
          derivation {
            name = "nixos-system-${pool}-25.11";
            inherit (settings) platform package k3s;
            system = settings.platform;
            builder = "/bin/sh";
            args = [ ./nixos/toplevel.sh ];
            PATH = "/bin";
            switch = ./nixos/switch-to-configuration.sh;
            kernel = file "linux-${settings.kernel}" "kernel ${settings.kernel}";
            initrd = file "initrd-linux-${settings.kernel}" "initrd of ${settings.kernel}";
            modules = file "linux-${settings.kernel}-modules" "modules of ${settings.kernel}";
            systemd = file "systemd-258" "systemd 258";
            # Files that make the machine misbehave, by their names: sick, panics, hangs.
            inherit (settings) faults;
            builds = if settings.builds then "yes" else "no";
          };

      nixos = pool: settings: {
        config.services.k3s.package.version = settings.k3s;
        config.system.build.toplevel = toplevel pool settings;
      };
    in
    {
      nixosConfigurations = builtins.mapAttrs nixos pools;
    };
}
