# How a node is on Hetzner's networks. Which address is whose is known on the machine alone: IPv4 comes by DHCP, on the
# public and on the private interface; the public IPv6 address by a file that ./identity.nix has written.
{ lib, ... }:
{
  networking = {
    useNetworkd = lib.mkDefault true;
    useDHCP = lib.mkDefault false;
    # ./identity.nix gives the machine its name.
    hostName = lib.mkDefault "";
  };
  services.resolved.enable = lib.mkDefault true;

  systemd.network = {
    enable = lib.mkDefault true;
    networks."10-fabrik" = {
      # Interfaces of hardware. Their names differ between server types, and `Kind=` keeps those of pods out.
      matchConfig = {
        Type = lib.mkDefault "ether";
        Kind = lib.mkDefault "!*";
      };
      networkConfig = {
        DHCP = lib.mkDefault "ipv4";
        # Hetzner announces no prefix: addresses are static, the gateway is fe80::1 (docs.hetzner.com, "Static
        # configuration").
        IPv6AcceptRA = lib.mkDefault false;
        LinkLocalAddressing = lib.mkDefault "ipv6";
      };
      dhcpV4Config = {
        UseHostname = lib.mkDefault false;
        # A lease that is lost while the server of it is away takes no pod's network away.
        SendRelease = lib.mkDefault false;
        # Hetzner's private networks carry 1450 bytes (docs.hetzner.com, "Networks: Architecture") and drop what is larger;
        # networkd leaves an interface at 1500 unless told (systemd.network(5)). Each takes what its own DHCP says, so the
        # public one, whose file says the same, keeps its 1500.
        UseMTU = lib.mkDefault true;
      };
    };
    # Routes and rules of a CNI are not networkd's to take away.
    config.networkConfig = {
      ManageForeignRoutes = lib.mkDefault false;
      ManageForeignRoutingPolicyRules = lib.mkDefault false;
    };
    # The private interface may come minutes later; k3s waits for it by itself.
    wait-online.anyInterface = lib.mkDefault true;
  };
}
