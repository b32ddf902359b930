//! How long a plan and a step take for clusters of 1,000 and 10,000 nodes: at rest, and when a tenth comes or goes.

#[path = "../tests/model/mod.rs"]
mod model;

use divan::Bencher;
use fabrik_core::plan::plan;
use fabrik_core::step::step;
use model::Model;

fn main() {
    divan::main();
}

fn world(nodes: u32, wanted: u32) -> Model {
    let mut model = Model::with_members(nodes);
    model.pool().count = wanted;
    model
}

#[divan::bench(args = [1_000, 10_000])]
fn plan_at_rest(bencher: Bencher, nodes: u32) {
    let world = world(nodes, nodes);
    assert!(
        plan(&world.desired, &world.observed, world.now)
            .effects
            .is_empty()
    );
    bencher.bench(|| plan(&world.desired, &world.observed, world.now));
}

#[divan::bench(args = [1_000, 10_000])]
fn plan_a_tenth_more(bencher: Bencher, nodes: u32) {
    let world = world(nodes, nodes + nodes / 10);
    assert!(
        plan(&world.desired, &world.observed, world.now)
            .effects
            .len()
            >= nodes as usize / 10
    );
    bencher.bench(|| plan(&world.desired, &world.observed, world.now));
}

#[divan::bench(args = [1_000, 10_000])]
fn plan_a_tenth_less(bencher: Bencher, nodes: u32) {
    let world = world(nodes, nodes - nodes / 10);
    assert!(
        plan(&world.desired, &world.observed, world.now)
            .effects
            .len()
            >= nodes as usize / 10
    );
    bencher.bench(|| plan(&world.desired, &world.observed, world.now));
}

#[divan::bench(args = [1_000, 10_000])]
fn step_at_rest(bencher: Bencher, nodes: u32) {
    let world = world(nodes, nodes);
    bencher.bench(|| step(&world.desired, &world.observed, world.now));
}
