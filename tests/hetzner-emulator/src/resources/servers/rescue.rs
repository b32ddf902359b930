//! The rescue system: armed by an action, booted once.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::events::Boots;
use crate::project::Project;
use crate::random;
use crate::resources::servers::Server;
use crate::resources::ssh_keys;

/// An armed rescue system that nobody boots is disarmed after this time.
const ARMED_FOR: SignedDuration = SignedDuration::from_mins(60);

/// Who can enter the rescue system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescue {
    pub root_password: String,
    /// Lines of its `authorized_keys`.
    pub authorized_keys: Vec<String>,
    until: Timestamp,
}

impl Server {
    pub fn rescue_enabled(&self, now: Timestamp) -> bool {
        self.rescue.as_ref().is_some_and(|armed| now < armed.until)
    }

    /// The machine boots: the rescue system if it is armed, and then from its disk again.
    pub fn boot(&mut self, now: Timestamp) {
        let enabled = self.rescue_enabled(now);
        self.booted = self.rescue.take().filter(|_| enabled);
    }

    /// What it booted last.
    pub const fn boots(&self) -> Boots {
        match self.booted {
            Some(_) => Boots::Rescue,
            None => Boots::Disk,
        }
    }
}

pub fn enable(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    if input.text("type").is_some_and(|kind| kind != "linux64") {
        input.reject("type", "must be 'linux64'");
    }
    let mut authorized_keys = Vec::new();
    for wanted in input.ids_or_names("ssh_keys") {
        match ssh_keys::named(project, &wanted) {
            Some(key) => authorized_keys.push(key.public_key.clone()),
            None => input.reject("ssh_keys", format!("SSH key {wanted} not found")),
        }
    }
    input.finish()?;
    let root_password = random::text(20);
    let password = root_password.clone();
    let subject = ResourceRef::server(id);
    let action = project.begin("enable_rescue", subject, &[], move |project| {
        let until = project.now + ARMED_FOR;
        if let Some(server) = project.servers.get_mut(&id) {
            server.rescue = Some(Rescue {
                root_password,
                authorized_keys,
                until,
            });
        }
    });
    Ok(Reply::created(
        json!({"action": project.render_action(action), "root_password": password}),
    ))
}

pub fn disable(project: &mut Project, id: u64) -> Reply {
    let subject = ResourceRef::server(id);
    let action = project.begin("disable_rescue", subject, &[], move |project| {
        if let Some(server) = project.servers.get_mut(&id) {
            server.rescue = None;
        }
    });
    Reply::created(json!({"action": project.render_action(action)}))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::playground::Playground;

    fn act(play: &mut Playground, server: u64, action: &str) -> Value {
        play.post(&format!("servers/{server}/actions/{action}"), &json!({}))
    }

    fn boots(play: &Playground, server: u64) -> Boots {
        play.project.servers[&server].boots()
    }

    #[test]
    fn the_rescue_system_is_booted_once_by_each_way_to_boot() {
        let mut play = Playground::new();
        let server = play.server("machine", "cx23");
        for ways in [["reboot"].as_slice(), &["reset"], &["poweroff", "poweron"]] {
            act(&mut play, server, "enable_rescue");
            let now = play.project.now;
            assert!(play.project.servers[&server].rescue_enabled(now));
            assert_eq!(boots(&play, server), Boots::Disk, "not before it boots");
            for way in ways {
                act(&mut play, server, way);
            }
            assert_eq!(boots(&play, server), Boots::Rescue, "{ways:?}");
            assert!(!play.project.servers[&server].rescue_enabled(now));
            act(&mut play, server, "reset");
            assert_eq!(boots(&play, server), Boots::Disk, "{ways:?}");
        }
        let events = play.project.events.since(0);
        let rescued = events.iter().filter(|e| e.boots == Some(Boots::Rescue));
        assert_eq!(rescued.count(), 3);
    }

    #[test]
    fn the_rescue_system_is_disarmed_by_hand_and_after_an_hour() {
        let mut play = Playground::new();
        let server = play.server("machine", "cx23");
        act(&mut play, server, "enable_rescue");
        act(&mut play, server, "disable_rescue");
        act(&mut play, server, "reset");
        assert_eq!(boots(&play, server), Boots::Disk);
        act(&mut play, server, "enable_rescue");
        play.pass(SignedDuration::from_mins(60));
        assert!(!play.project.servers[&server].rescue_enabled(play.project.now));
        act(&mut play, server, "reset");
        assert_eq!(boots(&play, server), Boots::Disk);
    }

    #[test]
    fn a_hung_machine_boots_no_rescue_system_by_the_power_button() {
        let mut play = Playground::new();
        let server = play.server("machine", "cx23");
        act(&mut play, server, "enable_rescue");
        play.project.servers.get_mut(&server).unwrap().hung = true;
        act(&mut play, server, "reboot");
        assert_eq!(boots(&play, server), Boots::Disk);
        act(&mut play, server, "reset");
        assert_eq!(boots(&play, server), Boots::Rescue);
    }
}
