# Reads the text of `cluster.toml`, as far as systems depend on it, and says all that is wrong with that. It uses nothing
# but builtins, so it needs no nixpkgs. What does not concern systems is `fabrik validate`'s to check; it also knows
# the line and the column of a fault.
text:
let
  toml = builtins.addErrorContext "while reading cluster.toml: `fabrik validate` says what is wrong, and where" (
    builtins.fromTOML text
  );

  kinds = {
    string = "a string in quotes";
    set = "a table";
    list = "a list";
    int = "a whole number";
    bool = "true or false";
    float = "a fraction";
  };
  kind = value: kinds.${builtins.typeOf value} or "something else";

  isName = text: builtins.match "[a-z][a-z0-9-]*" text != null;

  # What is found at a place: its value (the default where it is missing or wrong), and its faults.
  good = value: {
    inherit value;
    faults = [ ];
  };
  bad = default: fault: {
    value = default;
    faults = [ "cluster.toml: ${fault}" ];
  };

  # KEY of the table TABLE, which is called `object`.
  read =
    {
      object,
      table,
      key,
      type,
      default ? null,
      example ? null,
    }:
    if !(table ? ${key}) then
      if example == null then good default else bad default "${object} `${key}` is missing: add `${key} = ${example}`"
    else if builtins.typeOf table.${key} != type then
      bad default "${object} `${key}` must be ${kinds.${type}}, and is ${kind table.${key}}"
    else
      good table.${key};

  table =
    name:
    read {
      object = "[${name}]";
      table = toml;
      key = name;
      type = "set";
      default = { };
    };
  # Of a table that is none, only that is said.
  string =
    name: key: default: example:
    if (table name).faults != [ ] then
      good default
    else
      read {
        inherit key default example;
        object = "[${name}]";
        table = (table name).value;
        type = "string";
      };
  strings =
    object: table: key: example:
    let
      list = read {
        inherit object table key example;
        type = "list";
        default = [ ];
      };
      wrong = builtins.filter (item: !builtins.isString item) list.value;
    in
    if wrong == [ ] then
      list
    else
      bad [ ] "${object} `${key}` holds ${kind (builtins.head wrong)}, and must hold strings alone";

  version =
    let
      given = string "kubernetes" "version" "" "\"1.36\"";
      parts = builtins.match "(1\\.[0-9]+)(\\.[0-9]+\\+k3s[0-9]+)?" given.value;
    in
    if given.faults != [ ] || (table "kubernetes").faults != [ ] || parts != null then
      given
    else
      bad "" "[kubernetes] version: `${given.value}` is neither a minor like `1.36` nor a release of k3s like `1.36.3+k3s1`";

  api =
    let
      given = (table "api").value;
      of =
        object: table: key: type: default:
        read {
          inherit
            object
            table
            key
            type
            default
            ;
        };
      # The address that one of them came to have, or nothing.
      address =
        key:
        let
          one = of "[api]" given key "set" { };
          found = of "[api.${key}]" one.value "address" "string" null;
        in
        {
          inherit (found) value;
          faults = one.faults ++ found.faults;
        };
      balancer = address "load-balancer";
      floating-ip = address "floating-ip";
    in
    {
      inherit floating-ip;
      name = of "[api]" given "name" "string" null;
      addresses = {
        value = builtins.filter (it: it != null) [
          balancer.value
          floating-ip.value
        ];
        # The other's are its own.
        inherit (balancer) faults;
      };
    };

  # Hetzner's CAX are Ampere Altra; all others are of Intel or AMD (docs.hetzner.cloud, "Server types").
  architectureOf =
    type: if builtins.match "cax[0-9]+" type != null then "aarch64-linux" else "x86_64-linux";

  # What runs on those server types: `value.system`.
  machines =
    object: given:
    let
      types = strings object given "server-types" "[\"cx33\"]";
      of = system: builtins.filter (type: architectureOf type == system) types.value;
      names = list: builtins.concatStringsSep ", " (map (type: "`${type}`") list);
      x86 = of "x86_64-linux";
      arm = of "aarch64-linux";
    in
    if types.faults == [ ] && types.value == [ ] then
      bad { } "${object} `server-types` is empty: name at least one, as in `server-types = [\"cx33\"]`"
    else if x86 != [ ] && arm != [ ] then
      bad { } "${object} server-types: ${names x86} (x86_64) and ${names arm} (aarch64) can't run the one system of a pool: keep those of one architecture"
    else
      {
        inherit (types) faults;
        value.system = if arm != [ ] then "aarch64-linux" else "x86_64-linux";
      };

  pool =
    name:
    let
      object = "[pools.${name}]";
      given = (table "pools").value.${name};
    in
    if !isName name then
      bad { } "${object} `${name}` is no name: use a-z, 0-9 and -, beginning with a letter"
    else if name == "servers" then
      bad { } "${object} `servers` is the control plane's own: call the pool otherwise, `workers` for one; the servers are [servers]"
    else if !builtins.isAttrs given then
      bad { } "[pools] `${name}` must be ${kinds.set}, and is ${kind given}"
    else
      machinesOf object given;

  machinesOf = object: given: if given ? machines then own object given else machines object given;

  # Machines of the user's own. What else is wrong with them is `fabrik validate`'s to say.
  own =
    object: given:
    let
      system = read {
        inherit object;
        table = given;
        key = "system";
        type = "string";
        default = "x86_64-linux";
      };
      isKnown = builtins.elem system.value [ "x86_64-linux" "aarch64-linux" ];
      hasDisk = name: builtins.isString (given.machines.${name}.disk or null);
      disk = name: { inherit name; value = given.machines.${name}.disk; };
      port = machine: if builtins.isInt (machine.port or null) then machine.port else 22;
    in
    if !builtins.isAttrs given.machines then
      bad { } "${object} `machines` must be ${kinds.set}, and is ${kind given.machines}"
    else if system.faults == [ ] && !isKnown then
      bad { } "${object} `system` can't be `${system.value}`: use `x86_64-linux` or `aarch64-linux`"
    else
      {
        inherit (system) faults;
        value = {
          system = system.value;
          disks = builtins.listToAttrs (map disk (builtins.filter hasDisk (builtins.attrNames given.machines)));
          ports = map port (builtins.filter builtins.isAttrs (builtins.attrValues given.machines));
        };
      };

  # Without the table they are a person's, and what they are is an argument of `mkCluster`.
  servers =
    if toml ? servers && (table "servers").faults == [ ] then
      machinesOf "[servers]" (table "servers").value
    else
      good { };

  pools = builtins.mapAttrs (name: _: pool name) (table "pools").value;
  keys = builtins.mapAttrs (
    name: value:
    if builtins.isString value then
      good value
    else
      bad "" "[ssh-keys] `${name}` must be ${kinds.string}, and is ${kind value}"
  ) (table "ssh-keys").value;

  optional = key: string "network" key;
  network = {
    range = optional "range" "10.0.0.0/16" null;
    nodes = optional "nodes" "10.0.1.0/24" null;
    pods = optional "pods" "10.42.0.0/16" null;
    services = optional "services" "10.43.0.0/16" null;
  };
  firewall = {
    ssh-from = strings "[firewall]" (table "firewall").value "ssh-from" null;
    api-from = strings "[firewall]" (table "firewall").value "api-from" null;
  };
  name =
    let
      given = string "cluster" "name" "" "\"…\"";
    in
    if given.faults != [ ] || (table "cluster").faults != [ ] || isName given.value then
      given
    else
      bad "" "[cluster] name: `${given.value}` is none: use a-z, 0-9 and -, beginning with a letter";

  # What is wrong with one is `fabrik validate`'s to say.
  secrets =
    let
      given = (table "secrets").value;
      strings = value: if builtins.isList value then builtins.filter builtins.isString value else [ ];
      isOne = name: builtins.isAttrs given.${name} && builtins.isString (given.${name}.file or null);
    in
    map (name: {
      inherit (given.${name}) file;
      pools = strings (given.${name}.pools or [ ]);
      restart = strings (given.${name}.restart or [ ]);
      # What else makes another file on a node.
      shape = builtins.removeAttrs given.${name} [
        "pools"
        "restart"
      ];
    }) (builtins.filter isOne (builtins.attrNames given));

  values = builtins.mapAttrs (_: found: found.value);
  faultsOf = found: builtins.concatMap (one: one.faults) (builtins.attrValues found);
in
{
  faults =
    builtins.concatMap (name: (table name).faults) [
      "cluster"
      "kubernetes"
      "network"
      "firewall"
      "api"
      "ssh-keys"
      "servers"
      "pools"
      "secrets"
    ]
    ++ name.faults
    ++ version.faults
    ++ faultsOf network
    ++ faultsOf firewall
    ++ faultsOf api
    ++ faultsOf keys
    ++ servers.faults
    ++ faultsOf pools;

  # What `fabrik.cluster` of the modules takes.
  cluster = {
    name = name.value;
    kubernetes.version = version.value;
    network = values network;
    firewall = values firewall;
    api = values api;
    ssh-keys = values keys;
  };

  # { system = "x86_64-linux"; }, with `disks` and `ports` where they are the user's own machines, or nothing where `[servers]` is not there.
  servers = servers.value;

  # { NAME.system = "x86_64-linux"; }, and in pools of the user's own `disks.MACHINE = "/dev/…"` and all machines' `ports` of SSH.
  pools = values pools;

  # Of each, its SOPS file, the pools that have it, and the units that another one restarts.
  inherit secrets;
}
