# A STUB of nixpkgs' lib, as far as the modules of nixos/ use it, with a small evaluator of modules: imports,
# `disabledModules`, `mkIf`, `mkMerge`, priorities, declared options with their types, and everything that nobody declares
# (all of NixOS) merged by what it looks like. What it says of a module is what nixpkgs would, or nothing.
let
  inherit (builtins)
    all
    any
    attrNames
    concatMap
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    mapAttrs
    tail
    ;
  concat = builtins.concatStringsSep;
  unique = foldl' (seen: item: if elem item seen then seen else seen ++ [ item ]) [ ];
  least = foldl' (low: item: if item < low then item else low) 1000000;
  isPlain = value: isAttrs value && !(value ? _type) && value.type or null != "derivation";
  fromNames = names: make: listToAttrs (map (name: { inherit name; value = make name; }) names);

  # A definition: { when = [ conditions ]; priority; value; file; }.
  expand =
    def:
    let
      kind = if isAttrs def.value then def.value._type or null else null;
    in
    if kind == "if" then
      expand (def // { when = def.when ++ [ def.value.condition ]; value = def.value.content; })
    else if kind == "merge" then
      concatMap (value: expand (def // { inherit value; })) def.value.contents
    else if kind == "override" then
      expand (def // { inherit (def.value) priority; value = def.value.content; })
    else
      [ def ];
  holds = def: all (condition: condition) def.when;
  below = name: defs: concatMap (def: if isPlain def.value && def.value ? ${name} then expand (def // { value = def.value.${name}; }) else [ ]) defs;
  namesIn = defs: unique (concatMap (def: if isPlain def.value then attrNames def.value else [ ]) defs);
  # Those of the definitions that hold which have the say, and their values.
  foremost =
    defs:
    let
      holding = filter holds defs;
      first = least (map (def: def.priority) holding);
    in
    filter (def: def.priority == first) holding;
  live = defs: map (def: def.value) (foremost defs);

  same = path: values: if all (value: value == head values) values then head values else throw "the option `${path}' has conflicting definition values";

  # What nobody declares: sets are merged by name, lists and texts joined.
  mergeAny =
    path: all:
    let
      defs = foremost all;
      names = filter (name: any holds (below name defs)) (namesIn defs);
      values = map (def: def.value) defs;
    in
    if any isPlain values then
      fromNames names (name: mergeAny "${path}.${name}" (below name defs))
    else if length values == 1 then
      head values
    else if builtins.all isList values then
      builtins.concatLists values
    else if builtins.all isString values then
      concat "" values
    else
      same path values;

  # Options of ours: nobody else declares any there.
  closed = [
    "fabrik"
    "services.fabrik"
    "services.fabrik-agent"
  ];

  isOption = node: isAttrs node && node._type or null == "option";

  mergeOption =
    path: option: defs:
    let
      default = if option ? default then [ { when = [ ]; priority = 1500; value = option.default; } ] else [ ];
      definitions = defs ++ concatMap expand default;
    in
    if !any holds definitions then
      throw "The option `${path}' was accessed but has no value defined. Try setting the option."
    else
      option.type.merge path definitions;

  # Declared options have values of their types. Beside them there is nothing where the set of options is closed, and
  # anything elsewhere.
  mergeTree =
    path: isClosed: options: defs:
    let
      here = name: if path == "" then name else "${path}.${name}";
      value =
        name:
        let
          given = below name defs;
        in
        if isOption (options.${name} or null) then
          mergeOption (here name) options.${name} given
        else if options ? ${name} then
          mergeTree (here name) (isClosed || elem (here name) closed) options.${name} given
        else if isClosed then
          throw "The option `${here name}' does not exist"
        else
          mergeAny (here name) given;
    in
    fromNames (unique (attrNames options ++ namesIn defs)) value;

  mergeOptions =
    path: trees:
    let
      names = unique (concatMap attrNames trees);
      of = name: map (tree: tree.${name}) (filter (tree: tree ? ${name}) trees);
      one =
        name:
        let
          found = of name;
          here = "${path}.${name}";
        in
        if length found == 1 then
          head found
        else if any isOption found then
          throw "The option `${here}' is declared twice"
        else
          mergeOptions here found;
    in
    fromNames names one;

  evalModules =
    { modules, specialArgs ? { } }:
    let
      args = specialArgs // { inherit config options lib; };
      keyOf = module: if builtins.isPath module || isString module then toString module else if isAttrs module then module.key or null else null;
      load =
        module:
        let
          given = if builtins.isPath module || isString module then import module else module;
          content = if builtins.isFunction given then given args else given;
          isLong = content ? config || content ? options;
          file = content._file or (if keyOf module == null then "a module" else keyOf module);
        in
        {
          key = keyOf module;
          imports = content.imports or [ ];
          disabled = map keyOf (content.disabledModules or [ ]);
          options = content.options or { };
          config = if isLong then content.config or { } else removeAttrs content [ "imports" "key" "_file" "disabledModules" ];
          inherit file;
        };
      # With what they import, but for those that `skip` names.
      collect =
        skip:
        concatMap (
          module:
          let
            loaded = load module;
          in
          if loaded.key != null && elem loaded.key skip then [ ] else [ loaded ] ++ collect skip loaded.imports
        );
      disabled = concatMap (module: module.disabled) (collect [ ] modules);
      # A module that is imported twice is there once.
      once =
        state: module:
        if module.key != null && elem module.key state.seen then
          state
        else
          {
            seen = state.seen ++ [ module.key ];
            list = state.list ++ [ module ];
          };
      nothing = {
        seen = [ ];
        list = [ ];
      };
      chosen = (foldl' once nothing (collect disabled modules)).list;
      options = mergeOptions "" (map (module: module.options) chosen);
      definitions = concatMap (module: expand { when = [ ]; priority = 100; value = module.config; inherit (module) file; }) chosen;
      config = mergeTree "" false options definitions;
    in
    {
      inherit options config;
      extendModules = more: evalModules { modules = modules ++ more.modules; inherit specialArgs; };
    };

  # A type of one value.
  simple =
    name: description: fits:
    let
      merge =
        path: defs:
        let
          values = live defs;
          wrong = filter (value: !fits value) values;
        in
        if wrong != [ ] then
          throw "A definition for option `${path}' is not of type `${description}'"
        else
          same path values;
    in
    {
      inherit name description merge fits;
    };

  types = {
    bool = simple "bool" "boolean" isBool;
    int = simple "int" "signed integer" isInt;
    port = simple "port" "16 bit unsigned integer; between 0 and 65535 (both inclusive)" (value: isInt value && value >= 0 && value < 65536);
    str = simple "str" "string" isString;
    path = simple "path" "absolute path" (value: builtins.isPath value || isString value && lib.hasPrefix "/" value);
    package = simple "package" "package" (value: isString value || isAttrs value);
    anything = simple "anything" "anything" (_: true) // { merge = mergeAny; };
    enum = values: simple "enum" "one of ${concat ", " (map builtins.toJSON values)}" (value: elem value values);
    addCheck = type: extra: simple type.name type.description (value: type.fits value && extra value);
    nullOr =
      type:
      type
      // {
        description = "null or ${type.description}";
        merge =
          path: defs:
          let
            values = live defs;
          in
          if all (value: value == null) values then null else type.merge path defs;
      };
    listOf = type: {
      name = "listOf";
      description = "list of ${type.description}";
      merge =
        path: defs:
        let
          values = live defs;
          one = value: type.merge "${path}.*" [ { when = [ ]; priority = 100; inherit value; } ];
        in
        if all isList values then map one (builtins.concatLists values) else throw "A definition for option `${path}' is not of type `list of ${type.description}'";
    };
    attrsOf = type: {
      name = "attrsOf";
      description = "attribute set of ${type.description}";
      merge =
        path: given:
        let
          defs = foremost given;
        in
        if all (def: isPlain def.value) defs then
          fromNames (filter (name: any holds (below name defs)) (namesIn defs)) (name: type.merge "${path}.${name}" (below name defs))
        else
          throw "A definition for option `${path}' is not of type `attribute set of ${type.description}'";
    };
    submodule = module: {
      name = "submodule";
      description = "submodule";
      inherit (module) options;
      merge = path: defs: mergeTree path true module.options (foremost defs);
    };
  };

  lib = {
    inherit types unique;
    inherit (builtins) concatMap filter head any elem mapAttrs;
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    removeSuffix =
      suffix: text:
      let
        rest = builtins.stringLength text - builtins.stringLength suffix;
        whole = builtins.stringLength text;
      in
      if rest >= 0 && builtins.substring rest whole text == suffix then builtins.substring 0 rest text else text;
    hasInfix = part: text: length (builtins.split (builtins.replaceStrings [ "." ] [ "\\." ] part) text) > 1;
    splitString = by: text: filter isString (builtins.split by text);
    flatten = value: if isList value then concatMap lib.flatten value else [ value ];
    concatStringsSep = concat;
    concatMapStringsSep = by: change: list: concat by (map change list);
    count = fits: list: length (filter fits list);
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: list: if condition then list else [ ];
    optionalString = condition: text: if condition then text else "";
    optionalAttrs = condition: set: if condition then set else { };
    mapAttrsToList = change: set: map (name: change name set.${name}) (attrNames set);
    getExe = package: "${package}/bin/fabrik";
    literalExpression = text: { _type = "literalExpression"; inherit text; };
    mkOption = option: option // { _type = "option"; };
    mkEnableOption = what: lib.mkOption { description = "Whether to enable ${what}."; type = types.bool; default = false; };
    mkIf = condition: content: { _type = "if"; inherit condition content; };
    mkMerge = contents: { _type = "merge"; inherit contents; };
    mkOverride = priority: content: { _type = "override"; inherit priority content; };
    mkOptionDefault = lib.mkOverride 1500;
    mkDefault = lib.mkOverride 1000;
    mkForce = lib.mkOverride 50;
    filterAttrsRecursive =
      keep: set:
      let
        deep = value: if isAttrs value then lib.filterAttrsRecursive keep value else value;
      in
      fromNames (filter (name: keep name set.${name}) (attrNames set)) (name: deep set.${name});
    inherit evalModules isOption;
  };
in
lib
