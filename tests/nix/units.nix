# What the modules make of specs/everything for its servers and its workers, as text: fabrik's units and k3s' in the order of
# their keys, and the firewall's rules. units.txt is what it was when somebody last looked at it.
let
  stub = import ./stub.nix;
  inherit (stub) lib;
  inherit (import ../../nixos/lib/mk-cluster.nix stub.flake { src = ./specs/everything; }) nixosConfigurations;

  setting = key: value: if builtins.isList value then lib.concatMap (setting key) value else [ "${key}=${text value}" ];
  text = value: if builtins.isBool value then (if value then "true" else "false") else toString value;
  section = name: settings: lib.optionals (settings != { }) ([ "[${name}]" ] ++ lib.concatMap (key: setting key settings.${key}) (builtins.attrNames settings));
  unit =
    name: it:
    [ "## ${name}.service" ]
    ++ section "Unit" (
      { }
      // lib.optionalAttrs (it ? before) { Before = it.before; }
      // lib.optionalAttrs (it ? after) { After = it.after; }
      // it.unitConfig or { }
    )
    ++ section "Service" (it.serviceConfig or { })
    ++ section "Install" (lib.optionalAttrs (it ? requiredBy) { RequiredBy = it.requiredBy; });
  machine =
    name:
    let
      inherit (nixosConfigurations.${name}) config;
      units = builtins.filter (unit: config.systemd.services ? ${unit}) [ "fabrik-identity" "fabrik-founding" "fabrik-secrets" "fabrik-agent" "fabrik" "k3s" "iscsid" ];
    in
    [ "# ${name}" ]
    ++ lib.concatMap (name: unit name config.systemd.services.${name}) units
    ++ [
      "## firewall: input"
      config.networking.firewall.extraInputRules
      "## firewall: table fabrik"
      config.networking.nftables.tables.fabrik.content
    ];
in
lib.concatStringsSep "\n" (lib.concatMap machine [ "servers" "workers" ])
