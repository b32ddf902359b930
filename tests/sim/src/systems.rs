//! The systems that a run knows, and what each does to a machine.

use fabrik_core::id::StorePath;
use fabrik_core::system::{Needs, System};

/// What a system does to a machine that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    Well,
    /// The kernel panics, and the machine boots its default; a switch fails.
    Panics,
    /// Neither boots nor answers, until somebody resets the machine.
    Hangs,
    /// It runs, and its kubelet (and etcd) never get well.
    Sick,
}

#[derive(Debug, Clone)]
pub struct Known {
    pub system: System,
    pub kernel: u32,
    pub fate: Fate,
}

/// An index into `Systems`.
pub type Sys = usize;

#[derive(Debug, Clone, Default)]
pub struct Systems(Vec<Known>);

impl Systems {
    pub fn add(&mut self, kernel: u32, minor: u32, fate: Fate) -> Sys {
        let number = self.0.len();
        let path = |suffix: &str| -> StorePath {
            let text = format!("/nix/store/{}-system-{number}{suffix}", "0".repeat(32));
            text.parse().expect("it is a store path")
        };
        let system = System {
            output: path(""),
            derivation: path(".drv"),
            kubernetes: format!("1.{minor}.0+k3s1")
                .parse()
                .expect("it is a version"),
        };
        self.0.push(Known {
            system,
            kernel,
            fate,
        });
        number
    }

    pub fn get(&self, sys: Sys) -> &Known {
        &self.0[sys]
    }

    pub fn path(&self, sys: Sys) -> &StorePath {
        &self.0[sys].system.output
    }

    pub fn minor(&self, sys: Sys) -> u32 {
        self.0[sys].system.kubernetes.minor
    }

    pub fn fate(&self, sys: Sys) -> Fate {
        self.0[sys].fate
    }

    pub fn find(&self, path: &StorePath) -> Sys {
        let found = self.0.iter().position(|k| k.system.output == *path);
        found.expect("no path is made up")
    }

    /// What the two closures say.
    pub fn needs(&self, booted: Sys, running: Sys, to: Sys) -> Needs {
        if running == to {
            Needs::Nothing
        } else if self.0[booted].kernel == self.0[to].kernel {
            Needs::Switch
        } else {
            Needs::Reboot
        }
    }
}
