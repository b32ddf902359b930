{ lib, options, ... }:
{
  # Older releases of NixOS have no such option.
  services.k3s = lib.optionalAttrs (options.services.k3s ? disable) { disable = lib.mkForce [ "traefik" ]; };
}
