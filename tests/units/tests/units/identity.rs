//! `fabrik-identity.service`: who a machine is, before anything of a node starts.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;
use tempfile::TempDir;

use crate::units::modules;
use crate::units::room::Room;

const IDENTITY: &str = "fabrik-identity.service";
const K3S: &str = "k3s.service";
/// What each path of the metadata service answers is a file here.
const METADATA: &str = "/run/metadata";
const SERVE: &str = r#"
import http.server
class Handler(http.server.SimpleHTTPRequestHandler):
    def translate_path(self, path):
        return "/run/metadata/" + path.strip("/").replace("/", "_")
http.server.HTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"#;

#[test]
fn nothing_of_a_node_starts_before_the_machine_knows_who_it_is_and_is_no_other() {
    let service = modules::evaluate("identityUnit");
    let exec = "/opt/fabrik --log-format json identify --metadata http://127.0.0.1:8080 --root /";
    let unit = modules::unit(&service, exec).replace("=-systemd/bin", "=-/usr/bin");
    let etc = TempDir::new().unwrap();
    let mut room = Room::boot(IDENTITY, &unit, etc.path());
    let hostname = modules::evaluate("hostnameScript");
    let hostname = hostname.as_str().unwrap().strip_prefix('+').unwrap();
    room.script(
        "/stub/fabrik-hostname",
        &format!("#!/usr/bin/bash\n{hostname}"),
    );
    stand_in_for_k3s(&room, &service["requiredBy"]);
    answer(&room, "metadata_instance-id", "42");
    answer(&room, "metadata", "instance-id: 42\n");
    answer(
        &room,
        "metadata_private-networks",
        "- ip: 10.0.1.3\n  network_id: 1\n",
    );
    answer(&room, "userdata", "#!/bin/sh\necho somebody else's\n");
    room.run(&["systemd-run", "--quiet", "/usr/bin/python3", "-c", SERVE]);
    // nspawn lets nobody write there, as machines let root.
    room.run(&["mount", "--options", "remount,bind,rw", "/proc/sys"]);

    room.run(&["systemctl", "start", "--no-block", K3S]);
    room.wait("refusal", |r| {
        r.log(IDENTITY)
            .contains("is not what fabrik gives a server")
    });
    assert_eq!(room.show(K3S, "ActiveState"), "inactive");
    answer(&room, "userdata", &user_data());
    // Nobody starts it again.
    room.wait("k3s", |r| r.show(K3S, "ActiveState") == "active");
    assert_eq!(room.run(&["uname", "--nodename"]), "w-1\n");
    let token = "/var/lib/fabrik-identity/token";
    let mode = |path: &str| fs::metadata(room.path(path)).unwrap().permissions().mode();
    assert_eq!(mode(token) & 0o777, 0o600);
    let written = room.read("/etc/rancher/k3s/config.yaml.d/50-fabrik.yaml");
    assert!(written.unwrap().contains("node-name: w-1\n"));
    let log = room.log(IDENTITY);
    for complaint in ["nknown", "gnoring", "SIGSYS", "ermission denied"] {
        assert!(!log.contains(complaint), "{log}");
    }

    // The next boot, of another server with this one's disk.
    room.systemctl(&["stop", K3S, IDENTITY]);
    answer(&room, "metadata_instance-id", "43");
    room.run(&["systemctl", "start", "--no-block", K3S]);
    room.wait("refusal", |r| {
        r.log(IDENTITY).contains("an image was made of a node")
    });
    assert_eq!(room.show(K3S, "ActiveState"), "inactive");
}

fn answer(room: &Room, path: &str, text: &str) {
    fs::create_dir_all(room.path(METADATA)).unwrap();
    fs::write(room.path(METADATA).join(path), text).unwrap();
}

fn user_data() -> String {
    json!({
        "fabrik": 1, "role": "agent", "pool": "workers", "node-name": "w-1", "cluster-name": "demo",
        "cluster-id": "abcdefgh01234567", "public-key": null, "servers": ["https://127.0.0.1:8080"],
        "token": "K10abc::id.secret",
    })
    .to_string()
}

/// With what NixOS makes of `requiredBy`.
fn stand_in_for_k3s(room: &Room, required_by: &serde_json::Value) {
    let units = room.path("/run/systemd/system");
    fs::create_dir_all(&units).unwrap();
    let text = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n";
    fs::write(units.join(K3S), text).unwrap();
    for unit in required_by.as_array().unwrap() {
        let wants = units.join(format!("{}.requires", unit.as_str().unwrap()));
        fs::create_dir(&wants).unwrap();
        symlink(
            format!("/etc/systemd/system/{IDENTITY}"),
            wants.join(IDENTITY),
        )
        .unwrap();
    }
    room.systemctl(&["daemon-reload"]);
}
