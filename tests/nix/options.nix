# docs/nixos-options.md, of the declarations of the options.
let
  stub = import ./stub.nix;
  inherit (stub) lib;
  pkgs = stub.pkgsOf "x86_64-linux";
  inherit
    (lib.evalModules {
      modules = [
        (stub.nixos pkgs)
        stub.flake.nixosModules.default
      ];
      specialArgs = {
        inherit pkgs;
        modulesPath = ./nixos/modules;
      };
    })
    options
    ;

  show =
    value:
    if builtins.isAttrs value && value._type or null == "literalExpression" then
      value.text
    else if builtins.isAttrs value && value != { } then
      "{ ${lib.concatStringsSep " " (lib.mapAttrsToList (name: it: "${name} = ${show it};") value)} }"
    else if builtins.isList value && value != [ ] then
      "[ ${lib.concatStringsSep " " (map show value)} ]"
    else
      { set = "{ }"; list = "[ ]"; null = "null"; bool = if value == true then "true" else "false"; }
      .${builtins.typeOf value} or (builtins.toJSON value);

  one = path: option: [
    "### `${path}`"
    ""
    (lib.concatStringsSep " " (builtins.filter (line: line != "") (lib.splitString "\n *" option.description)))
    ""
    "* Type: ${option.type.description}"
  ]
  ++ lib.optional (option ? default || option ? defaultText) "* Default: `${show (option.defaultText or option.default)}`"
  ++ lib.optional (option ? example) "* Example: `${show option.example}`"
  ++ [ "" ]
  ++ lib.concatMap (name: one "${path}.${name}" option.type.options.${name}) (builtins.attrNames option.type.options or { });
  tree =
    path: node:
    if lib.isOption node then one path node else lib.concatMap (name: tree "${path}.${name}" node.${name}) (builtins.attrNames node);
in
lib.concatStringsSep "\n" (
  [
    "# The options of the NixOS modules"
    ""
    "Written by `tests/nix/check.sh --update` from the modules in `nixos/`. What they are for: [nixos.md](nixos.md). All other"
    "options are NixOS' own."
    ""
    "## Of nodes"
    ""
  ]
  ++ tree "fabrik" options.fabrik
  ++ [
    "## Of `fabrik agent`"
    ""
  ]
  ++ tree "services.fabrik-agent" options.services.fabrik-agent
  ++ [
    "## Of `fabrik run`"
    ""
  ]
  ++ tree "services.fabrik" options.services.fabrik
)
