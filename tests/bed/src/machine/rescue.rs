//! Hetzner's rescue system: a real sshd for root, with a host key that is another one at each boot, and the machine's disk as
//! `/dev/sda`. Nothing of it outlives the boot but what was written there.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

use super::{Inner, State};
use crate::namespaces::{self, Namespaces};
use crate::process::Dirs;
use crate::sshd;

const INIT: &str = include_str!("../../stand-ins/rescue/init");
const PROGRAMS: [(&str, &str); 3] = [
    ("blockdev", include_str!("../../stand-ins/rescue/blockdev")),
    ("curl", include_str!("../../stand-ins/rescue/curl")),
    ("dd", include_str!("../../stand-ins/rescue/dd")),
];
/// As Debian's login has it for root.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Inner {
    /// From power-on to the end of power, which comes by dropping this future.
    pub(super) async fn live_in_rescue(&self) -> Result<()> {
        let surroundings = &self.surroundings;
        let access = surroundings.hetzner.rescue(self.id).await?;
        let disk = surroundings.disks.open(self.id, access.disk_bytes)?;
        let dir = self.dir().join("rescue");
        let programs = dir.join("bin");
        fs::create_dir_all(&programs)?;
        for (name, text) in PROGRAMS {
            write_program(&programs.join(name), text)?;
        }
        let user_data = surroundings.hetzner.metadata(self.id, "userdata").await?;
        fs::write(dir.join("user-data"), user_data.unwrap_or_default())?;
        let (host_key, authorized_keys) = sshd::write_rescue_keys(&dir, &access.authorized_keys)?;
        let name = format!("{}-rescue", self.name);
        let namespaces = Namespaces::start(namespaces::Settings {
            name: &name,
            script: INIT,
            arguments: vec![disk.into(), dir.clone().into()],
            network: false,
            dir: &dir,
            dirs: &surroundings.dirs,
        })
        .await?;
        let mut path = OsString::from(&programs);
        path.push(":");
        path.push(PATH);
        let _sshd = sshd::start(&sshd::Settings {
            name: &format!("{name}-sshd"),
            sshd: &surroundings.parts.sshd,
            address: self.address.into(),
            host_key,
            authorized_keys,
            path,
            dir: &dir,
            dirs: &Dirs {
                inside: Some(namespaces.entrance()),
                ..surroundings.dirs.clone()
            },
        })
        .await?;
        self.state.send_replace(State::Rescue);
        std::future::pending().await
    }
}

fn write_program(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)?;
    Ok(fs::set_permissions(
        file,
        fs::Permissions::from_mode(0o755),
    )?)
}
