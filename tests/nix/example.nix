# A control-plane node's use of the modules, with every key that has no default.
{
  services.fabrik-agent.enable = true;
  services.fabrik = {
    enable = true;
    settings = {
      node = "server-1";
      cluster = {
        name = "demo";
        id = "abcdefgh01234567";
      };
      kubernetes = {
        servers = [ "https://127.0.0.1:6443" ];
        ca-file = "/etc/fabrik/ca.crt";
        leader-token-file = "/etc/fabrik/leader.token";
        applier-token-file = "/etc/fabrik/applier.token";
        join-urls = [ "https://10.0.1.1:6443" "https://10.0.1.2:6443" ];
      };
      repository.url = "git@git.example.com:ops/demo.git";
      secrets.age-key-file = "/etc/fabrik/age.key";
    };
  };
}
