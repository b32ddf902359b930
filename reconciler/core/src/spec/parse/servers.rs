//! `[servers]`.

use super::super::Servers;
use super::super::reader::Table;
use super::pool::{locations, placement, server_types};
use super::values::flag;

/// More members make etcd slower and no safer (etcd.io, FAQ, "What is maximum cluster size?").
const MOST: u32 = 7;

/// `None` where the table is not there, or a fault was noted.
pub fn servers(root: &mut Table<'_>, zone: Option<&str>) -> Option<Servers> {
    let entry = root.get("servers")?;
    let mut table = root.as_table(&entry, "[servers]")?;
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
