//! `[servers]`.

use std::collections::BTreeMap;

use super::super::reader::Table;
use super::super::{Machine, Servers};
use super::location::locations;
use super::machine::Machines;
use super::pool::{placement, server_types, system};
use super::values::flag;
use crate::id::{MachineName, PoolName};

/// More members make etcd slower and no safer (etcd.io, FAQ, "What is maximum cluster size?").
const MOST: u32 = 7;

/// As fabrik makes them, or as they are there.
type ControlPlane = (
    Option<Servers>,
    BTreeMap<MachineName, Machine>,
    Option<&'static str>,
);

/// `None` where the table is not there, or a fault was noted.
pub fn servers(
    root: &mut Table<'_>,
    zone: Option<&str>,
    machines: &mut Machines<'_>,
) -> Option<ControlPlane> {
    let entry = root.get("servers")?;
    let mut table = root.as_table(&entry, "[servers]")?;
    let Some(entry) = table.get("machines") else {
        return Some((Some(at_hetzner(table, zone)?), BTreeMap::new(), None));
    };
    let own = machines.read(&table, &entry, Some(&PoolName::servers()));
    for key in [
        "count",
        "server-types",
        "locations",
        "placement",
        "may-shrink",
    ] {
        if let Some(entry) = table.get(key) {
            table.fault(
                &entry.key.span,
                format!("`{key}` is of servers at Hetzner, and these are machines of your own"),
                "remove it",
            );
        }
    }
    let system = system(&mut table);
    let count = own.as_ref().map_or(1, BTreeMap::len);
    if count.is_multiple_of(2) || count > MOST as usize {
        table.fault(
            &entry.key.span,
            format!("{count} servers bear the loss of no more of them than fewer do"),
            format!("name an odd number of machines, {MOST} at most"),
        );
    }
    table.finish();
    Some((None, own?, system))
}

fn at_hetzner(mut table: Table<'_>, zone: Option<&str>) -> Option<Servers> {
    let count = count(&mut table);
    let server_types = server_types(&mut table, zone);
    let locations = locations(&mut table, zone);
    let placement = placement(&mut table);
    let may_shrink = flag(&mut table, "may-shrink");
    table.finish();
    Some(Servers {
        count: count?,
        server_types: server_types?,
        locations: locations?,
        placement: placement?,
        may_shrink: may_shrink?,
    })
}

fn count(table: &mut Table<'_>) -> Option<u32> {
    let Some(entry) = table.get("count") else {
        let remedy = format!("add `count = N`, with an odd number up to {MOST} for N");
        table.missing("`count` is missing", &remedy);
        return None;
    };
    let count = table.whole(&entry, 1..=MOST)?;
    if count % 2 == 0 {
        let (fewer, more) = (count - 1, count + 1);
        table.fault(
            &entry.span,
            format!("{count} servers bear the loss of no more of them than {fewer} do"),
            format!("use {fewer} or {more}"),
        );
        return None;
    }
    Some(count)
}
