//! How a server's power comes and goes.

use serde_json::json;

use crate::action::ResourceRef;
use crate::call::{Answer, Reply};
use crate::error::ApiError;
use crate::events::{Boots, EventKind};
use crate::project::Project;
use crate::resources::find;
use crate::resources::servers::{Server, Status};

/// What can be asked of a server's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Button {
    On,
    Off,
    Shutdown,
    Reboot,
    Reset,
}

impl Button {
    pub fn of(action: &str) -> Option<Self> {
        Some(match action {
            "poweron" => Self::On,
            "poweroff" => Self::Off,
            "shutdown" => Self::Shutdown,
            "reboot" => Self::Reboot,
            "reset" => Self::Reset,
            _ => return None,
        })
    }

    const fn command(self) -> &'static str {
        match self {
            Self::On => "start_server",
            Self::Off => "stop_server",
            Self::Shutdown => "shutdown_server",
            Self::Reboot => "reboot_server",
            Self::Reset => "reset_server",
        }
    }
}

/// The server's disk is there.
pub fn created(project: &mut Project, id: u64) {
    let server = project.servers.get_mut(&id);
    // A test can end `start_server` first.
    if let Some(server) = server.filter(|server| server.status == Status::Initializing) {
        server.status = Status::Off;
    }
}

pub fn started(project: &mut Project, id: u64) {
    if let Some(server) = project.servers.get_mut(&id) {
        server.status = Status::Running;
        boot(project, id, EventKind::Running);
    }
}

pub fn press(project: &mut Project, id: u64, button: Button) -> Answer {
    let was_on = find(&project.servers, id)?.status == Status::Running;
    if button == Button::Shutdown && was_on {
        project.announce(EventKind::ShutdownRequested, id);
    }
    let action = project.begin(
        button.command(),
        ResourceRef::server(id),
        &[],
        move |project| {
            take_effect(project, id, button, was_on);
        },
    );
    // There is nothing to boot again in a machine without power.
    if !was_on && matches!(button, Button::Reboot | Button::Reset) {
        let failure = ApiError::operation("action_failed", "Action failed");
        if let Some(action) = project.actions.get_mut(&action) {
            action.failure = Some(failure);
        }
    }
    Ok(Reply::created(
        json!({"action": project.render_action(action)}),
    ))
}

fn take_effect(project: &mut Project, id: u64, button: Button, was_on: bool) {
    let Some(server) = project.servers.get_mut(&id) else {
        return;
    };
    match button {
        Button::On if !was_on => started(project, id),
        Button::Shutdown | Button::Reboot if server.hung => {}
        Button::Off | Button::Shutdown => turn_off(project, id),
        Button::Reboot => boot(project, id, EventKind::Rebooted),
        Button::Reset => {
            server.status = Status::Running;
            boot(project, id, EventKind::Reset);
        }
        Button::On => {}
    }
}

/// The machine says that it shut itself down.
pub fn halted(project: &mut Project, id: u64) -> Result<(), ApiError> {
    match find::<Server>(&project.servers, id)?.status {
        Status::Running => turn_off(project, id),
        Status::Off => {}
        Status::Initializing => {
            let message = "a server that was never on can't halt";
            return Err(ApiError::new(409, "conflict", message));
        }
    }
    Ok(())
}

/// The machine says that it rebooted by itself; what comes back is what it boots.
pub fn rebooted(project: &mut Project, id: u64) -> Result<Boots, ApiError> {
    if find::<Server>(&project.servers, id)?.status != Status::Running {
        let message = "a server that is off can't reboot";
        return Err(ApiError::new(409, "conflict", message));
    }
    boot(project, id, EventKind::Rebooted);
    find(&project.servers, id).map(Server::boots)
}

fn boot(project: &mut Project, id: u64, kind: EventKind) {
    if let Some(server) = project.servers.get_mut(&id) {
        server.boot(project.now);
        project.announce(kind, id);
    }
}

fn turn_off(project: &mut Project, id: u64) {
    let Some(server) = project.servers.get_mut(&id) else {
        return;
    };
    if server.status != Status::Off {
        server.status = Status::Off;
        server.booted = None;
        project.announce(EventKind::Off, id);
    }
}
