# Which releases of k3s a nixpkgs has, and the one that `kubernetes.version` of cluster.toml asks for. nixpkgs has one
# release of each minor that is still maintained, as `k3s_1_36`; what went out of support is an alias that throws.
{
  # A nixpkgs' packages.
  pkgs,
  # The flake input that they are of, for the way out.
  input,
}:
let
  minorOf =
    attribute:
    let
      found = builtins.match "k3s_1_([0-9]+)" attribute;
    in
    if found == null then null else builtins.head found;
  isThere = attribute: (builtins.tryEval pkgs.${attribute}.version).success;
  attributes = builtins.filter (name: minorOf name != null && isThere name) (builtins.attrNames pkgs);
  offered = builtins.concatStringsSep ", " (map (name: "`${pkgs.${name}.version}`") attributes);

  lacks =
    what:
    "${what} is not in the nixpkgs that k3s comes from, which has ${
      if attributes == [ ] then "no k3s" else offered
    }. Take one of these, or get a newer nixpkgs by `nix flake update ${input}`";

  ofMinor =
    minor:
    if builtins.elem "k3s_1_${minor}" attributes then
      { package = pkgs."k3s_1_${minor}"; }
    else
      { fault = lacks "k3s 1.${minor}"; };
in
{
  inherit ofMinor;

  # `1.36` or `1.36.3+k3s1`: { package } or { fault }.
  wanted =
    version:
    let
      minor = builtins.head (builtins.match "1\\.([0-9]+).*" version);
      found = ofMinor minor;
      isExact = version != "1.${minor}";
    in
    if found ? package && isExact && found.package.version != version then
      { fault = lacks "`${version}`"; }
    else
      found;
}
