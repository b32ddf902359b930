use super::*;

fn system(name: &str) -> System {
    System::parse(&format!("/nix/store/{name}")).unwrap()
}

fn entry(file: &str, title: &str, number: u64, name: &str) -> (String, String) {
    let text = format!(
        "title {title}\nsort-key nixos\nversion Generation {number} NixOS 25.05, built on 2026-11-21\n\
         linux /EFI/nixos/k.efi\ninitrd /EFI/nixos/i.efi\noptions init=/nix/store/{name}/init panic=10\n"
    );
    (file.to_owned(), text)
}

fn entries() -> Vec<(String, String)> {
    vec![
        entry("nixos-generation-11.conf", "NixOS", 11, "aaa-old"),
        entry("nixos-generation-12.conf", "NixOS", 12, "bbb-new"),
        entry(
            "nixos-test-generation-12.conf",
            "NixOS [test]",
            12,
            "ddd-test",
        ),
        (
            "memtest86.conf".into(),
            "title Memtest86+\nefi /EFI/memtest86/memtest.efi\n".into(),
        ),
    ]
}

const CONF: &str = "timeout 5\ndefault nixos-generation-11.conf\neditor 0\nconsole-mode keep\n";

#[test]
fn the_menu_of_nixos_is_read() {
    let of = |id: &str, name, number| Entry {
        id: id.to_owned(),
        system: system(name),
        generation: Generation(number),
    };
    assert_eq!(
        menu(CONF, &entries(), Variables::default()).unwrap(),
        Menu {
            default: system("aaa-old"),
            entries: vec![
                of("nixos-generation-11.conf", "aaa-old", 11),
                of("nixos-generation-12.conf", "bbb-new", 12)
            ],
            once: None,
        }
    );
}

#[test]
fn newer_names_are_hashes_and_may_carry_a_counter() {
    let entries = [
        entry("nixos-8b01.conf", "NixOS", 11, "aaa-old"),
        entry("nixos-77fe+2-1.conf", "NixOS", 12, "bbb-new"),
    ];
    let menu = menu("default nixos-8b01.conf\n", &entries, Variables::default()).unwrap();
    let ready = menu
        .ready(&system("aaa-old"), &system("bbb-new"), Generation(12))
        .unwrap();
    assert_eq!(ready.id, "nixos-77fe.conf");
}

#[test]
fn a_plus_that_is_no_counter_stays_in_the_name() {
    assert_eq!(
        id("linux-6.1+deb.conf").as_deref(),
        Some("linux-6.1+deb.conf")
    );
    assert_eq!(id("a+3.conf").as_deref(), Some("a.conf"));
    assert_eq!(id("a.conf~").as_deref(), None);
}

#[test]
fn a_pattern_or_a_default_that_is_overruled_is_refused() {
    let pattern = menu(
        "preferred nixos-generation-11.conf\ndefault nixos-*\n",
        &entries(),
        Variables::default(),
    );
    let overruled = Variables {
        default: Some("nixos-generation-12.conf".into()),
        ..Variables::default()
    };
    let preferred = Variables {
        preferred: Some("@saved".into()),
        ..Variables::default()
    };
    let refused = [
        pattern,
        menu(CONF, &entries(), overruled),
        menu(CONF, &entries(), preferred),
        menu("timeout 5\n", &entries(), Variables::default()),
        menu(CONF, &entries()[1..], Variables::default()),
    ];
    for menu in refused {
        assert!(
            matches!(menu, Err(BootError::DefaultUnclear { .. })),
            "{menu:?}"
        );
    }
}

#[test]
fn a_default_in_a_variable_that_agrees_is_fine() {
    let agreeing = Variables {
        default: Some("nixos-generation-11.conf".into()),
        once: Some("nixos-generation-12.conf".into()),
        preferred: None,
    };
    let menu = menu(CONF, &entries(), agreeing).unwrap();
    assert_eq!(menu.once.as_deref(), Some("nixos-generation-12.conf"));
}

#[test]
fn a_variable_is_attributes_and_utf_16() {
    let mut bytes = vec![7, 0, 0, 0];
    bytes.extend(
        "systemd-boot 257\0"
            .encode_utf16()
            .flat_map(u16::to_le_bytes),
    );
    assert_eq!(variable_text(&bytes).as_deref(), Some("systemd-boot 257"));
    assert_eq!(variable_text(&[7, 0, 0, 0, 0, 0]), None);
    assert_eq!(variable_text(&[7, 0]), None);
}
