//! The machine of a node, with its agent and its journal.

use std::hash::{Hash, Hasher};

use fabrik_core::agent::{Journal, Outcome, Try, Wish};

use super::super::state::{ago, ahead, short};
use super::{PHASE_SECS, Place};
use crate::machine::{Begun, Machine, Power};

/// A step more than the longest pause between two attempts.
const ATTEMPT_SECS: i64 = 60;

impl Place<'_> {
    pub(super) fn machine(&self, machine: &Machine, into: &mut impl Hasher) {
        let Machine {
            id: _,
            name: _,
            server: _,
            role: _,
            journal,
            wish,
            power,
            boots: _,
            boot,
            running,
            default,
            booted,
            once,
            staged,
            fetching,
            command,
            last,
            dies_in,
            power_cut,
            agent_dead_until,
            data_minor,
            dirty,
            // No event of a search touches them.
            skew: _,
            mishap: _,
            kubelet_dead_until: _,
            cut_off_until: _,
            disk_full_until: _,
            places_to_die: _,
            retired: _,
            stops: _,
            stops_until: _,
            k3s_ended: _,
            stays_learner: _,
        } = machine;
        let now = self.world.now;
        let power = match power {
            Power::Booting { until, into } => (0, ahead(*until, now), *into),
            Power::On => (1, 0, 0),
            Power::Hung => (2, 0, 0),
            Power::Off => (3, 0, 0),
        };
        (power, self.boot(boot)).hash(into);
        (running, default, booted, once, staged, data_minor, dirty).hash(into);
        let fetching = fetching.map(|(sys, ends)| (sys, ahead(ends, now)));
        (fetching, dies_in, power_cut, ahead(*agent_dead_until, now)).hash(into);
        self.journal(journal, into);
        self.wish(wish, into);
        command.is_some().hash(into);
        if let Some(command) = command {
            self.command(command, into);
        }
        // No other try has the number of one that is over.
        let open = journal.current.as_ref().is_some_and(|t| !t.is_over());
        if let Some(last) = last.as_ref().filter(|_| open) {
            let Outcome {
                ticket,
                phase,
                attempt,
                result,
                nothing_ran,
            } = last;
            let what = (self.number(*ticket), *phase as u8, attempt);
            (what, result.is_ok(), nothing_ran).hash(into);
        }
    }

    fn journal(&self, journal: &Journal, into: &mut impl Hasher) {
        let Journal {
            schema: _,
            // Told by the publications.
            sequence: _,
            pool,
            ticket,
            current,
        } = journal;
        (pool.is_some(), self.number(*ticket), current.is_some()).hash(into);
        if let Some(current) = current {
            self.current(current, into);
        }
    }

    fn current(&self, current: &Try, into: &mut impl Hasher) {
        let Try {
            ticket,
            system,
            from,
            default,
            stuck,
            needs,
            minor,
            boot,
            phase,
            since,
            deadline,
            started_minor,
            ran,
            unheard,
            keep,
            attempts,
            begun,
            message,
        } = current;
        (self.number(*ticket), short(system), short(from)).hash(into);
        (*phase as u8, stuck, started_minor, unheard).hash(into);
        if current.is_over() {
            return;
        }
        let now = self.world.now;
        default.as_ref().map(short).hash(into);
        (*needs as u8, minor, self.boot(boot), ran, keep).hash(into);
        ago(*since, now, PHASE_SECS).hash(into);
        let begun = begun.map(|at| ago(at, now, ATTEMPT_SECS));
        (ahead(*deadline, now), attempts, begun).hash(into);
        message.is_empty().hash(into);
    }

    fn wish(&self, wish: &Wish, into: &mut impl Hasher) {
        let Wish {
            publication,
            aim,
            order,
        } = wish;
        aim.as_ref().map(short).hash(into);
        self.order(order.as_ref(), into);
        self.publication(publication.as_ref(), into);
    }

    fn command(&self, begun: &Begun, into: &mut impl Hasher) {
        let Begun {
            // Follows from the try that it is of.
            command,
            ticket,
            phase,
            attempt,
            ends,
            watched,
        } = begun;
        std::mem::discriminant(command).hash(into);
        (self.number(*ticket), *phase as u8, attempt).hash(into);
        (ahead(*ends, self.world.now), watched).hash(into);
    }
}
