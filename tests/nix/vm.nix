# A cluster of virtual machines: k3s of nixpkgs under the modules, three servers and an agent. It takes KVM. What is left away
# is Hetzner's: networks, disk and the identity that comes from there, whose files the test writes.
{
  flake,
  k3s,
  lib,
  testers,
}:
let
  node = role: {
    imports = [ flake.nixosModules.default ];
    disabledModules = [
      flake.nixosModules.disk
      flake.nixosModules.identity
      flake.nixosModules.image
      flake.nixosModules.network
    ];
    fabrik = {
      inherit role;
      pool = if role == "server" then "servers" else "workers";
      cluster = {
        name = "vm";
        kubernetes.version = lib.versions.majorMinor k3s.version;
        network = {
          # The test driver's.
          range = "192.168.1.0/24";
          nodes = "192.168.1.0/24";
          pods = "10.42.0.0/16";
          services = "10.43.0.0/16";
        };
      };
    };
    # They would follow a repository.
    services.fabrik.enable = false;
    services.fabrik-agent.enable = false;
    services.k3s = {
      package = k3s;
      images = [ k3s.airgap-images ];
    };
    virtualisation = {
      cores = 2;
      diskSize = 4096;
      memorySize = 1536;
    };
  };
in
testers.runNixOSTest {
  name = "fabrik-cluster";

  nodes = {
    server1 = node "server";
    server2 = node "server";
    server3 = node "server";
    agent1 = {
      imports = [ (node "agent") ];
      specialisation.next.configuration.services.k3s.extraFlags = [ "--kubelet-arg=max-pods=99" ];
    };
  };

  testScript =
    { nodes, ... }:
    ''
      addresses = {
      ${lib.concatStrings (lib.mapAttrsToList (name: it: "    \"${name}\": \"${it.networking.primaryIPAddress}\",\n") nodes)}}
      folder = "/etc/rancher/k3s/config.yaml.d"

      def tell(machine, *lines):
          name = machine.name
          text = "\\n".join([f"node-name: {name}", f"node-ip: {addresses[name]}", "token-file: /etc/rancher/k3s/token", *lines])
          machine.succeed(
              f"mkdir -p {folder}",
              "echo a-token-of-the-test >/etc/rancher/k3s/token",
              f"printf '{text}\\n' >{folder}/50-fabrik.yaml",
          )

      def kubectl(arguments, by):
          return by.succeed(f"k3s kubectl {arguments}")

      def wait_ready(name, by):
          by.wait_until_succeeds(f"k3s kubectl wait --for=condition=Ready node/{name} --timeout=5s", timeout=600)

      start_all()

      with subtest("k3s does not start on a machine that is told nothing"):
          for machine in machines:
              machine.wait_for_unit("multi-user.target")
              machine.fail("systemctl is-active k3s.service")

      with subtest("one founds, the others join"):
          tell(server1, "cluster-init: true")
          server1.succeed("systemctl start k3s.service")
          wait_ready("server1", server1)
          join = f"server: https://{addresses['server1']}:6443"
          for machine in (server2, server3, agent1):
              tell(machine, join)
              machine.succeed("systemctl start k3s.service")
              wait_ready(machine.name, server1)
          tell(server1, f"server: https://{addresses['server2']}:6443")

      with subtest("the pods' network is on the interface that nodes share"):
          agent1.succeed(f"grep -q eth1 {folder}/60-interface.yaml")

      with subtest("a new system, and the old one again"):
          pods = "get node agent1 -o jsonpath={.status.capacity.pods}"
          agent1.succeed("/run/current-system/specialisation/next/bin/switch-to-configuration test")
          server1.wait_until_succeeds(f"[ $(k3s kubectl {pods}) = 99 ]", timeout=300)
          agent1.succeed("${nodes.agent1.system.build.toplevel}/bin/switch-to-configuration test")
          server1.wait_until_succeeds(f"[ $(k3s kubectl {pods}) = 110 ]", timeout=300)

      with subtest("a server is lost, the others serve"):
          server3.crash()
          server1.wait_until_succeeds("k3s kubectl get node server3 | grep -q NotReady", timeout=300)
          kubectl("create configmap after-the-loss", by=server2)

      with subtest("a server with an emptied disk does not found"):
          server2.succeed(f"systemctl stop k3s.service; k3s-killall.sh; rm -rf /var/lib/rancher/k3s {folder}")
          server2.succeed("systemctl start k3s.service")
          server2.fail("systemctl is-active k3s.service")

      with subtest("nor does it where it is told to once more"):
          tell(server2, "cluster-init: true")
          server2.succeed("systemctl start k3s.service")
          server2.fail("systemctl is-active k3s.service")
    '';
}
