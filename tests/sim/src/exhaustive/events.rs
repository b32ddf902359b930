//! What may happen at a moment, and only where it can make a difference.
//!
//! An agent dies, and a machine loses its power under it, at each place of what it does in the step that comes; a leader
//! dies or pauses before each effect that it is about to carry out. Where nothing is done, to die there is to die at the
//! next place. A machine loses its power at any moment besides, for others see that it is down.

use super::Left;
use super::state::different_machines;
use crate::people::Act;
use crate::world::World;

/// For how long a leader pauses: another one has taken over, and has evaluated the commit.
const PAUSE_SECS: i64 = 60;

/// Each with what is left after it. `next` is the world after the step that comes.
pub fn events(world: &World, next: &World, left: Left) -> Vec<(Act, Left)> {
    let mut events = Vec::new();
    let machines = different_machines(world);
    if let Some(crashes) = left.crashes.checked_sub(1) {
        let then = Left { crashes, ..left };
        events.extend(crashes_of(world, next, &machines).map(|act| (act, then)));
    }
    if left.human {
        let then = Left {
            human: false,
            ..left
        };
        events.extend(human(world, &machines).map(|act| (act, then)));
    }
    if left.pause {
        let then = Left {
            pause: false,
            ..left
        };
        let pauses =
            effects(next).map(|(leader, place)| Act::LeaderPauses(leader, place, PAUSE_SECS));
        events.extend(pauses.map(|act| (act, then)));
    }
    events
}

fn crashes_of<'a>(
    world: &'a World,
    next: &'a World,
    machines: &'a [usize],
) -> impl Iterator<Item = Act> + 'a {
    let places = machines.iter().flat_map(|&node| {
        let dies_anyway = world.machines[node].dies_in.is_some();
        let places = next.machines[node].places_to_die;
        let places = if dies_anyway { 0 } else { places };
        (0..places).flat_map(move |place| [Act::AgentDies(node, place), Act::PowerCut(node, place)])
    });
    let running = machines
        .iter()
        .filter(|&&node| world.machines[node].is_on());
    let fails = running.map(|&node| Act::PowerFails(node));
    let leaders = effects(next).map(|(leader, place)| Act::LeaderDies(leader, place));
    places.chain(fails).chain(leaders)
}

/// Each effect of the step, and whose it is.
fn effects(next: &World) -> impl Iterator<Item = (usize, u32)> + '_ {
    let leaders = next.leaders.iter().enumerate();
    leaders.flat_map(|(leader, l)| (0..l.had).map(move |place| (leader, place)))
}

fn human(world: &World, machines: &[usize]) -> impl Iterator<Item = Act> {
    let cordons = machines.iter().filter_map(|&number| {
        let node = world.observed.nodes.get(&world.machines[number].name)?;
        Some(if node.unschedulable {
            Act::Uncordon(number)
        } else {
            Act::Cordon(number)
        })
    });
    cordons.chain([Act::BackToTheFirst])
}
