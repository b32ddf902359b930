//! Which boot loader started this machine.

use super::BootError;

/// A loader with a one-shot that fabrik knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    GrubBios,
    GrubUefi,
    SystemdBoot,
}

/// What a running machine shows of its loader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// The kernel was started by UEFI.
    pub uefi: bool,
    /// The EFI variable LoaderInfo, which the loader that started the kernel sets (systemd.io/BOOT_LOADER_INTERFACE):
    /// "systemd-boot 257.9", and since 2.12 "GRUB 2.12".
    pub loader_info: Option<String>,
    /// NixOS' GRUB menu is there.
    pub grub_cfg: bool,
    /// systemd-boot's configuration is there.
    pub loader_conf: bool,
}

impl Loader {
    pub fn is_grub(self) -> bool {
        self != Self::SystemdBoot
    }

    /// The loader that ran says so itself where it can; a menu alone, left by a loader of former days, proves nothing.
    pub fn detect(traces: &Traces) -> Result<Self, BootError> {
        let info = traces.loader_info.as_deref().unwrap_or_default();
        let systemd_boot = info.starts_with("systemd-boot ");
        let grub = info.is_empty() || info.starts_with("GRUB ");
        match traces {
            Traces {
                uefi: true,
                loader_conf: true,
                ..
            } if systemd_boot => Ok(Self::SystemdBoot),
            Traces {
                uefi: true,
                grub_cfg: true,
                ..
            } if grub => Ok(Self::GrubUefi),
            Traces {
                uefi: false,
                grub_cfg: true,
                ..
            } => Ok(Self::GrubBios),
            _ => Err(BootError::UnknownLoader {
                found: traces.told(),
            }),
        }
    }
}

impl Traces {
    fn told(&self) -> String {
        let yes_no = |is: bool| if is { "is there" } else { "is missing" };
        format!(
            "the firmware is {}, the loader calls itself {}, grub/grub.cfg {}, loader/loader.conf {}",
            if self.uefi { "UEFI" } else { "BIOS" },
            self.loader_info.as_deref().unwrap_or("nothing"),
            yes_no(self.grub_cfg),
            yes_no(self.loader_conf)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_that_ran_is_told_from_one_that_only_left_files() {
        let both = Traces {
            uefi: true,
            grub_cfg: true,
            loader_conf: true,
            loader_info: None,
        };
        let with = |info: &str| Traces {
            loader_info: Some(info.to_owned()),
            ..both.clone()
        };
        assert_eq!(
            Loader::detect(&with("systemd-boot 257.9")).unwrap(),
            Loader::SystemdBoot
        );
        assert_eq!(
            Loader::detect(&with("GRUB 2.12")).unwrap(),
            Loader::GrubUefi
        );
        assert_eq!(Loader::detect(&both).unwrap(), Loader::GrubUefi);
        let bios = Traces {
            uefi: false,
            ..both
        };
        assert_eq!(Loader::detect(&bios).unwrap(), Loader::GrubBios);
    }

    #[test]
    fn any_other_loader_is_named() {
        let refind = Traces {
            uefi: true,
            loader_info: Some("rEFInd 0.14".into()),
            grub_cfg: true,
            loader_conf: false,
        };
        let told = Loader::detect(&refind).unwrap_err().to_string();
        assert!(told.contains("rEFInd 0.14"), "{told}");
        let extlinux = Traces::default();
        assert!(matches!(
            Loader::detect(&extlinux),
            Err(BootError::UnknownLoader { .. })
        ));
        // systemd-boot that ran from an ESP which is not mounted where we were told.
        let elsewhere = Traces {
            uefi: true,
            loader_info: Some("systemd-boot 257".into()),
            ..Traces::default()
        };
        assert!(Loader::detect(&elsewhere).is_err());
    }
}
