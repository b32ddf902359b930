//! What `sops` gets of the environment: for the cluster nothing, for a person the little that their keys need.

use std::ffi::OsString;

/// An age plugin (as that of a YubiKey) and gpg are programs, and keep what they need at home. There `sops` finds the person's
/// usual keys as well, beside the file that is named.
const PROGRAMS: [&str; 3] = ["PATH", "HOME", "GNUPGHOME"];
/// pinentry, by which they ask for a PIN, has to find the terminal or the screen; gpg's agent has its socket there.
const PINENTRY: [&str; 7] = [
    "GPG_TTY",
    "TERM",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
];

/// Of the variables of whoever runs this, those that are passed on. All others stay here: one may hold a token.
pub fn of_person() -> impl Iterator<Item = (&'static str, OsString)> {
    let names = PROGRAMS.into_iter().chain(PINENTRY);
    names.filter_map(|name| Some((name, std::env::var_os(name)?)))
}
