use super::*;

pub const GOOD: &str = r#"
node = "server-1"
state-dir = "/var/lib/fabrik"
listen = "127.0.0.1:9640"
[cluster]
name = "demo"
id = "abcdefgh01234567"
[kubernetes]
servers = ["https://127.20.0.1:6443"]
ca-file = "/f/ca.crt"
leader-token-file = "/f/leader.token"
applier-token-file = "/f/applier.token"
admin-kubeconfig = "/f/admin"
join-urls = ["https://127.20.0.1:9345", "https://127.20.0.2:9345"]
[repository]
url = "git@host:path"
poll = "90s"
[secrets]
age-key-file = "/f/age.key"
[hetzner]
endpoint = "https://api.hetzner.cloud/v1"
[leader-election]
lease-duration = "3s"
renew-deadline = "2s"
retry-period = "250ms"
"#;

const ETCD: &str = "
[etcd]
endpoint = 'https://127.0.0.1:2379'
ca-file = '/e/ca'
certificate-file = '/e/c'
key-file = '/e/k'
snapshot-dir = '/e/s'
";
const NIX: &str = "
[nix]
program-dir = '/n'
store = '/s'
signing-key-file = '/k'
";
const CACHE: &str = "
[cache]
listen = '10.0.0.2:9642'
certificate-file = '/c'
key-file = '/k'
client-ca-file = '/a'
";
const JOIN: &str = "
[join]
listen = '10.0.0.2:9643'
certificate-file = '/c'
key-file = '/k'
k3s-token-file = '/t'
";

#[test]
fn what_is_rendered_reads_back_the_same() {
    let config = Config::parse("f", GOOD).unwrap();
    assert_eq!(config.repository.poll, Duration::from_secs(90));
    assert_eq!(config.repository.branch, "main");
    let rendered = config.render().unwrap();
    assert_eq!(Config::parse("f", &rendered).unwrap(), config);
}

#[test]
fn an_error_names_the_line() {
    let text = GOOD.replace("poll = \"90s\"", "pol = \"90s\"");
    let error = Config::parse("config.toml", &text).unwrap_err().to_string();
    assert!(
        error.starts_with("config.toml:17:1: unknown field `pol`"),
        "{error}"
    );
    let text = GOOD.replace("90s", "soon");
    let error = Config::parse("config.toml", &text).unwrap_err().to_string();
    assert!(error.starts_with("config.toml:17:"), "{error}");
    assert!(error.contains("`soon` is no duration"), "{error}");
}

#[test]
fn a_leader_that_could_outlive_its_lease_is_refused_with_every_reason() {
    let text = GOOD
        .replace("renew-deadline = \"2s\"", "renew-deadline = \"3s\"")
        .replace("https://127.20.0.1:6443", "http://a");
    let error = Config::parse("f", &text).unwrap_err().to_string();
    assert!(error.contains("renew-deadline must be shorter"), "{error}");
    assert!(error.contains("`http://a` is no https:// URL"), "{error}");
}

/// The module knows its keys and no others: one that it lacks can't be set on NixOS.
#[test]
fn the_nixos_module_has_an_option_for_each_key() {
    let module = include_str!("../../../nixos/fabrik.nix");
    let text = format!("{GOOD}[webhook]\nsecret-file = '/w'\n{ETCD}{NIX}{CACHE}{JOIN}");
    let rendered = Config::parse("f", &text).unwrap().render().unwrap();
    let config: toml::Table = rendered.parse().unwrap();
    for (key, value) in &config {
        assert!(module.contains(&format!("\n      {key} = ")), "{key}");
        for inner in value.as_table().into_iter().flat_map(toml::Table::keys) {
            let options = [format!("        {inner} = "), format!("options.{inner} = ")];
            assert!(options.iter().any(|o| module.contains(o)), "{key}.{inner}");
        }
    }
    assert_eq!(config.len(), 14, "a section is left out above");
}

#[test]
fn etcd_is_asked_over_tls_only() {
    let etcd = |endpoint: &str| {
        let etcd = ETCD.replace("https://127.0.0.1:2379", endpoint);
        Config::parse("f", &format!("{GOOD}{etcd}"))
    };
    let config = etcd("https://127.0.0.1:2379").unwrap();
    let rendered = config.render().unwrap();
    assert_eq!(Config::parse("f", &rendered).unwrap(), config);
    let error = etcd("http://127.0.0.1:2379").unwrap_err().to_string();
    assert!(error.contains("etcd.endpoint"), "{error}");
}

#[test]
fn the_caches_are_beside_the_supervisors() {
    let mut config = Config::parse("f", GOOD).unwrap();
    assert!(config.cache_urls().is_empty());
    config.cache = Some(Cache {
        listen: "10.0.0.2:9642".parse().unwrap(),
        certificate_file: "/c".into(),
        key_file: "/k".into(),
        client_ca_file: "/a".into(),
    });
    config
        .kubernetes
        .join_urls
        .push("https://[fd00::1]:9345".to_owned());
    assert_eq!(
        config.cache_urls(),
        [
            "https://127.20.0.1:9642",
            "https://127.20.0.2:9642",
            "https://[fd00::1]:9642"
        ]
    );
    let now = ["10.0.0.3", "fd00::3"].map(|address| address.parse().unwrap());
    assert_eq!(
        config.caches_at(now.into_iter()),
        ["https://10.0.0.3:9642", "https://[fd00::3]:9642"]
    );
}

#[test]
fn a_worker_needs_somewhere_to_join() {
    let refused = |urls: &str| {
        let all = r#"["https://127.20.0.1:9345", "https://127.20.0.2:9345"]"#;
        let text = GOOD.replace(all, urls);
        Config::parse("f", &text).unwrap_err().to_string()
    };
    let error = refused("[]");
    assert!(
        error.contains("join-urls must name at least one"),
        "{error}"
    );
    let error = refused(r#"["https://127.20.0.1:9345", "http://b"]"#);
    assert!(
        error.contains("join-urls: `http://b` is no https:// URL"),
        "{error}"
    );
}
