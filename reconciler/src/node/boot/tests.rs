//! The steps on a folder that looks like a machine, with tools that do there what the real ones do on a disk. (The real
//! loaders boot in the package `tests/boot`.)

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;

const OLD: &str = "/nix/store/aaa-old";
const NEW: &str = "/nix/store/bbb-new";

/// nix-env for `--set`, `--switch-generation` and `--delete-generations`.
const NIX_ENV: &str = r#"
profile=$2
case $3 in
    --set) n=1; while [ -L "$profile-$n-link" ] && [ "$(readlink "$profile-$n-link")" != "$4" ]; do n=$((n + 1)); done
        ln -sfn "$4" "$profile-$n-link"; ln -sfn "system-$n-link" "$profile" ;;
    --switch-generation) ln -sfn "system-$4-link" "$profile" ;;
    --delete-generations) rm "$profile-$4-link" ;;
esac"#;
/// A loader's installation: all generations but those that ROOT/hidden names, and the default.
const SWITCH: &str = r#"
default=${0#ROOT}; default=${default%/bin/*}
for n in 1 2 3; do
    link=ROOT/nix/var/nix/profiles/system-$n-link
    entry=ROOT/boot/loader/entries/nixos-generation-$n.conf
    rm -f "$entry"
    [ -L "$link" ] || continue
    system=$(readlink "$link")
    if ! grep -qs "$system" ROOT/hidden; then
        printf 'title NixOS\nversion Generation %s x\noptions init=%s/init\n' "$n" "$system" >"$entry"
    fi
    if [ "$system" = "$default" ]; then echo "default nixos-generation-$n.conf" >ROOT/boot/loader/loader.conf; fi
done"#;
/// bootctl --esp-path=… set-oneshot ENTRY: the variable as efivarfs shows it.
const BOOTCTL: &str = r#"
[ "$2" = set-oneshot ]
file=ROOT/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
if [ -e ROOT/deaf ]; then exit 0; fi
if [ -z "$3" ]; then rm -f "$file"; else { printf '\7\0\0\0'; printf %s "$3" | sed 's/./&\x00/g'; printf '\0\0'; } >"$file"; fi"#;
const NIXOS_REBUILD: &str = r#"
[ "$4" = --no-reexec ]
ROOT/bin/nix-env --profile ROOT/nix/var/nix/profiles/system --set "$3"
exec "ROOT$3/bin/switch-to-configuration" boot"#;
const DF: &str = "echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'; echo \"x 1 1 $(cat ROOT/free) 1% /boot\"";

/// A machine with systemd-boot, booted into the old system, its first generation.
struct World {
    machine: Machine,
    folder: tempfile::TempDir,
    old: System,
    new: System,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in [
            "bin",
            "run",
            "boot/loader/entries",
            "proc/self",
            "nix/var/nix/profiles",
            "sys/firmware/efi/efivars",
        ] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for (name, text) in [
            ("nix-env", NIX_ENV),
            ("nixos-rebuild", NIXOS_REBUILD),
            ("bootctl", BOOTCTL),
            ("df", DF),
            ("sync", ""),
            ("mount", "echo \"$2\" >>ROOT/mounted"),
        ] {
            script(root, &root.join("bin").join(name), text);
        }
        for system in [OLD, NEW] {
            let path = root.join(&system[1..]);
            fs::create_dir_all(path.join("bin")).unwrap();
            fs::write(path.join("kernel"), "kernel").unwrap();
            fs::write(path.join("initrd"), "initrd").unwrap();
            script(root, &path.join("bin/switch-to-configuration"), SWITCH);
        }
        symlink(OLD, root.join("nix/var/nix/profiles/system-1-link")).unwrap();
        symlink("system-1-link", root.join("nix/var/nix/profiles/system")).unwrap();
        fs::write(root.join("free"), "100000").unwrap();
        let mount = "40 22 254:1 / /boot rw - vfat /dev/vda1 rw\n";
        fs::write(root.join("proc/self/mountinfo"), mount).unwrap();
        let info: Vec<u8> = "systemd-boot 257\0"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let file = format!(
            "sys/firmware/efi/efivars/{}",
            systemd_boot::variable_file("LoaderInfo")
        );
        fs::write(root.join(file), [&[6, 0, 0, 0], info.as_slice()].concat()).unwrap();
        let tool = |name: &str| root.join("bin").join(name);
        let tools = Tools {
            nix_env: tool("nix-env"),
            nixos_rebuild: tool("nixos-rebuild"),
            grub_reboot: tool("grub-reboot"),
            grub_editenv: tool("grub-editenv"),
            bootctl: tool("bootctl"),
            df: tool("df"),
            mount: tool("mount"),
            sync: tool("sync"),
        };
        let world = Self {
            machine: Machine::new(root.to_owned(), Layout::default(), tools),
            old: System::parse(OLD).unwrap(),
            new: System::parse(NEW).unwrap(),
            folder,
        };
        world.machine.install_loader(&world.old).unwrap();
        world.boot(OLD);
        world
    }

    fn boot(&self, system: &str) {
        let link = self.root().join("run/booted-system");
        let _ = fs::remove_file(&link);
        symlink(system, link).unwrap();
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn menu(&self) -> Menu {
        self.machine.menu(Loader::SystemdBoot).unwrap()
    }

    fn numbers(&self) -> Vec<u64> {
        self.menu()
            .entries
            .iter()
            .map(|entry| entry.generation.0)
            .collect()
    }

    fn current(&self) -> PathBuf {
        fs::read_link(self.root().join("nix/var/nix/profiles/system")).unwrap()
    }
}

fn script(root: &Path, path: &Path, text: &str) {
    let text = text.replace("ROOT", &root.display().to_string());
    fs::write(path, format!("#!/bin/sh\nset -eu\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn prepared_and_named_once_the_old_system_is_still_the_default() {
    let world = World::new();
    for _again in 0..2 {
        assert_eq!(
            prepare(&world.machine, &world.old, &world.new).unwrap(),
            Generation(2)
        );
        boot_once(&world.machine, &world.old, &world.new).unwrap();
    }
    assert_eq!(world.menu().default, world.old);
    assert_eq!(
        world.menu().once.as_deref(),
        Some("nixos-generation-2.conf")
    );
    assert_eq!(world.numbers(), [1, 2]);
    assert_eq!(
        world.current(),
        Path::new("system-1-link"),
        "who installs from the profile installs the old one"
    );
}

#[test]
fn kept_it_is_the_default_and_no_one_shot_is_left() {
    let world = World::new();
    prepare(&world.machine, &world.old, &world.new).unwrap();
    boot_once(&world.machine, &world.old, &world.new).unwrap();
    let early = keep(&world.machine, &world.new).unwrap_err();
    assert!(matches!(early, BootError::NotBooted { .. }), "{early}");
    world.boot(NEW);
    for _again in 0..2 {
        keep(&world.machine, &world.new).unwrap();
    }
    assert_eq!(
        (world.menu().default, world.menu().once),
        (world.new.clone(), None)
    );
    assert_eq!(world.numbers(), [1, 2], "keeping makes no third generation");
}

#[test]
fn the_copies_of_a_kernel_that_a_power_cut_has_spoilt_are_made_anew() {
    let world = World::new();
    let copies = world.root().join("boot/EFI/nixos");
    fs::create_dir_all(&copies).unwrap();
    let (kernel, initrd) = ("bbb-new-kernel.efi", "bbb-new-initrd.efi");
    for spoilt in ["", "ker", "kernal"] {
        fs::write(copies.join(kernel), spoilt).unwrap();
        fs::write(copies.join(initrd), "initrd and secrets").unwrap();
        prepare(&world.machine, &world.old, &world.new).unwrap();
        let read = |name| fs::read_to_string(copies.join(name)).unwrap();
        assert_eq!(read(kernel), "kernel");
        assert_eq!(read(initrd), "initrd and secrets");
    }
}

#[test]
fn what_an_installation_that_was_cut_off_has_left_is_gone_after_the_next() {
    let world = World::new();
    let left = ["loader/loader.tmp", "loader/entries/nixos-generation-2.tmp"];
    for file in left {
        fs::write(world.root().join("boot").join(file), "half").unwrap();
    }
    prepare(&world.machine, &world.old, &world.new).unwrap();
    let names = |folder: &str| {
        let folder = world.root().join("boot/loader").join(folder);
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["entries", "loader.conf"]);
    assert_eq!(
        names("entries"),
        ["nixos-generation-1.conf", "nixos-generation-2.conf"]
    );
}

#[test]
fn fat_writes_through_while_the_loader_is_installed_and_no_longer() {
    let world = World::new();
    let mounted = world.root().join("mounted");
    fs::remove_file(&mounted).unwrap();
    fs::write(world.root().join("hidden"), NEW).unwrap();
    prepare(&world.machine, &world.old, &world.new).unwrap_err();
    let mounted = fs::read_to_string(mounted).unwrap();
    assert_eq!(
        mounted,
        "remount,sync\nremount,async\n".repeat(2),
        "once to prepare, once to undo it"
    );
}

#[test]
fn abandoned_nothing_of_it_is_left() {
    let world = World::new();
    prepare(&world.machine, &world.old, &world.new).unwrap();
    boot_once(&world.machine, &world.old, &world.new).unwrap();
    for _again in 0..2 {
        abandon(&world.machine, &world.old, &world.new).unwrap();
    }
    assert_eq!(
        (world.menu().default, world.menu().once),
        (world.old.clone(), None)
    );
    assert_eq!(world.numbers(), [1]);
}

#[test]
fn a_menu_that_does_not_tell_is_written_anew_by_who_abandons() {
    let world = World::new();
    prepare(&world.machine, &world.old, &world.new).unwrap();
    boot_once(&world.machine, &world.old, &world.new).unwrap();
    let conf = world.root().join("boot/loader/loader.conf");
    fs::write(conf, "default nixos-*\n").unwrap();
    assert!(is_prepared(&world.machine, &world.new).unwrap());
    abandon(&world.machine, &world.old, &world.new).unwrap();
    assert_eq!(
        (world.menu().default, world.menu().once),
        (world.old.clone(), None)
    );
    assert_eq!(world.numbers(), [1]);
}

#[test]
fn an_installation_without_an_entry_is_undone() {
    let world = World::new();
    fs::write(world.root().join("hidden"), NEW).unwrap();
    let refused = prepare(&world.machine, &world.old, &world.new).unwrap_err();
    assert!(matches!(refused, BootError::NoEntry { .. }), "{refused}");
    assert!(
        !world
            .root()
            .join("nix/var/nix/profiles/system-2-link")
            .is_symlink()
    );
    assert_eq!(
        (world.numbers(), world.menu().default),
        (vec![1], world.old.clone())
    );
}

#[test]
fn without_room_or_without_a_way_back_nothing_is_touched() {
    let world = World::new();
    fs::write(world.root().join("free"), "100").unwrap();
    let full = prepare(&world.machine, &world.old, &world.new).unwrap_err();
    assert!(matches!(full, BootError::NoSpace { .. }), "{full}");
    let stray = System::parse("/nix/store/ccc-only-tested").unwrap();
    let lost = prepare(&world.machine, &stray, &world.new).unwrap_err();
    assert!(matches!(lost, BootError::NotInProfile { .. }), "{lost}");
    assert_eq!(world.numbers(), [1]);
}

#[test]
fn a_one_shot_that_the_firmware_did_not_take_is_an_error() {
    let world = World::new();
    prepare(&world.machine, &world.old, &world.new).unwrap();
    fs::write(world.root().join("deaf"), "").unwrap();
    let lost = boot_once(&world.machine, &world.old, &world.new).unwrap_err();
    assert!(
        matches!(lost, BootError::OnceNotSet { found: None, .. }),
        "{lost}"
    );
}

#[test]
fn a_tool_that_fails_is_named_with_what_it_said() {
    let world = World::new();
    script(
        world.root(),
        &world.root().join("bin/nix-env"),
        "echo 'disk I/O error' >&2; exit 1",
    );
    let failed = prepare(&world.machine, &world.old, &world.new)
        .unwrap_err()
        .to_string();
    assert!(
        failed.contains("--set /nix/store/bbb-new") && failed.contains("disk I/O error"),
        "{failed}"
    );
}
