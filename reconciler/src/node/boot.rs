//! Boot once: a new NixOS system is tried by a one-shot boot entry while the old one stays the default.
//!
//! The sequence, and what holds after each write, is in `docs/boot.md`. Every step may be repeated after a crash or a
//! power cut at any point. Calls block, for as long as the machine's own boot-loader installation takes, and are not
//! to be cancelled half-way: call them where blocking is allowed. What a loader's files say is read by pure functions
//! (`grub`, `systemd_boot`); nothing is taken from a title's position or guessed from a name's order.

mod error;
mod grub;
mod loader;
mod machine;
mod menu;
mod profile;
pub(super) mod space;
mod system;
mod systemd_boot;

pub use self::error::BootError;
pub use self::loader::Loader;
pub use self::machine::{Layout, Machine, Tools};
pub use self::menu::{Entry, Menu};
pub use self::system::{Generation, System};

use self::machine::PROFILE;

/// Makes `new` bootable beside `old`, which is the default before, while and after. Undoes what it did when the loader
/// does not say so afterwards.
///
/// `old` is the system that runs and is trusted. Gives the generation of `new`.
pub fn prepare(machine: &Machine, old: &System, new: &System) -> Result<Generation, BootError> {
    let loader = machine.loader()?;
    if old == new {
        return Err(BootError::SameSystem {
            system: new.clone(),
        });
    }
    machine.check_filesystem(loader)?;
    let fallback = generation_of(machine, old)?;
    machine.copy_kernel(loader, new)?;

    machine.nix_env(&["--set", &new.to_string()])?;
    let prepared = finish_preparing(machine, loader, old, new, fallback);
    if prepared.is_err()
        && let Err(undo) = remove(machine, loader, old, new)
    {
        tracing::error!(system = %new, error = %undo, "a generation that can't be booted once is still in the profile");
    }
    prepared
}

/// Names `new` for the next boot, and only for that one. To be called after `prepare`, right before the reboot.
pub fn boot_once(machine: &Machine, old: &System, new: &System) -> Result<(), BootError> {
    let loader = machine.loader()?;
    let generation = generation_of(machine, new)?;
    let menu = machine.menu(loader)?;
    let entry = menu.ready(old, new, generation)?;
    // The entry and its kernel are on the disk before anything names them.
    machine.sync()?;
    machine.set_once(loader, Some(&entry.id))?;
    let once = machine.menu(loader)?.once;
    if once.as_deref() == Some(entry.id.as_str()) {
        Ok(())
    } else {
        Err(BootError::OnceNotSet {
            wanted: entry.id.clone(),
            found: once,
        })
    }
}

/// Makes `new` the default. Only for the system that this machine is booted into, when it has been verified.
pub fn keep(machine: &Machine, new: &System) -> Result<(), BootError> {
    let booted = machine.booted()?;
    if booted != *new {
        return Err(BootError::NotBooted {
            wanted: new.clone(),
            booted,
        });
    }
    make_default(machine, new)
}

/// Makes `system` the default. Only for one that has been verified: by a boot of its own, or by running it where it takes
/// none.
pub fn make_default(machine: &Machine, system: &System) -> Result<(), BootError> {
    let loader = machine.loader()?;
    clear_once(machine, loader)?;
    machine.nixos_rebuild_boot(system)?;
    machine.menu(loader)?.boots_next(system)
}

/// Whether `system` has a generation in the profile or an entry in the menu, as far as that can be read.
pub fn is_prepared(machine: &Machine, system: &System) -> Result<bool, BootError> {
    if machine.generations()?.of(system).next().is_some() {
        return Ok(true);
    }
    match machine.loader() {
        Ok(loader) => match machine.menu(loader) {
            Ok(menu) => Ok(menu.entries.iter().any(|entry| entry.system == *system)),
            Err(error) if is_unclear(&error) => Ok(false),
            Err(error) => Err(error),
        },
        Err(BootError::UnknownLoader { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A menu that is there and does not tell: whoever installs the entries next writes it anew.
fn is_unclear(error: &BootError) -> bool {
    matches!(
        error,
        BootError::UnreadableMenu { .. } | BootError::DefaultUnclear { .. }
    )
}

/// The next boot starts `system`, and it is the default.
pub fn boots_next(machine: &Machine, system: &System) -> Result<(), BootError> {
    machine.menu(machine.loader()?)?.boots_next(system)
}

/// Takes `new` out of the profile and out of the loader's menu; `old` installs the loader's entries and stays the default.
pub fn abandon(machine: &Machine, old: &System, new: &System) -> Result<(), BootError> {
    if old == new {
        return Err(BootError::SameSystem {
            system: new.clone(),
        });
    }
    remove(machine, machine.loader()?, old, new)
}

fn finish_preparing(
    machine: &Machine,
    loader: Loader,
    old: &System,
    new: &System,
    fallback: Generation,
) -> Result<Generation, BootError> {
    let generation = generation_of(machine, new)?;
    // The profile points at the fallback again: who collects garbage or installs the loader from the profile now keeps
    // what is the default. `--set` of the newest generation's own path makes no other generation later.
    machine.nix_env(&["--switch-generation", &fallback.to_string()])?;
    machine.install_loader(old)?;
    machine.menu(loader)?.ready(old, new, generation)?;
    Ok(generation)
}

fn remove(machine: &Machine, loader: Loader, old: &System, new: &System) -> Result<(), BootError> {
    clear_once(machine, loader)?;
    let generations = machine.generations()?;
    let fallback = generation_of(machine, old)?;
    machine.nix_env(&["--switch-generation", &fallback.to_string()])?;
    let of_new: Vec<String> = generations
        .of(new)
        .map(|number| number.to_string())
        .collect();
    if !of_new.is_empty() {
        let mut arguments = vec!["--delete-generations"];
        arguments.extend(of_new.iter().map(String::as_str));
        machine.nix_env(&arguments)?;
    }
    machine.install_loader(old)?;
    let menu = machine.menu(loader)?;
    menu.boots_next(old)?;
    match menu.entries.into_iter().find(|entry| entry.system == *new) {
        None => Ok(()),
        Some(entry) => Err(BootError::EntryStays { entry: entry.id }),
    }
}

fn clear_once(machine: &Machine, loader: Loader) -> Result<(), BootError> {
    match machine.menu(loader) {
        Ok(menu) if menu.once.is_none() => return Ok(()),
        Ok(_) => {}
        // Whether there is one can't be seen: it is taken back unseen, and looked for when the menu is another.
        Err(error) if is_unclear(&error) => return machine.set_once(loader, None),
        Err(error) => return Err(error),
    }
    machine.set_once(loader, None)?;
    match machine.menu(loader)?.once {
        None => Ok(()),
        Some(found) => Err(BootError::OnceNotCleared { found }),
    }
}

fn generation_of(machine: &Machine, system: &System) -> Result<Generation, BootError> {
    machine
        .generations()?
        .of(system)
        .last()
        .ok_or_else(|| BootError::NotInProfile {
            system: system.clone(),
            profile: PROFILE,
        })
}

#[cfg(test)]
mod tests;
