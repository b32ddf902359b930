//! `[update]`: how a new system reaches the nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::reader::Table;
use super::super::{Check, Pods, Update};
use super::pods::{Labels, pods};
use super::values::{duration, flag};
use crate::id::NodeName;
use crate::window::Window;

const MAX_SOAK: Duration = Duration::from_secs(24 * 3600);
const MAX_TRY: Duration = Duration::from_secs(24 * 3600);
/// Kubernetes runs no more pods than that in one cluster (kubernetes.io, "Considerations for large clusters").
const MAX_READY: u32 = 150_000;
const MAX_LENGTH: Duration = Duration::from_secs(7 * 24 * 3600);
const EXAMPLE: &str = "{ start = \"0 2 * * 6\", length = \"4h\", zone = \"Europe/Berlin\" }";

pub fn update(root: &mut Table<'_>) -> Option<Update> {
    let mut table = root.table("update", "[update]");
    let default = Update::default();
    let canary = canary(&mut table);
    let soak = duration(&mut table, "soak", Duration::ZERO..=MAX_SOAK, default.soak);
    let shortest = Duration::from_secs(1);
    let try_deadline = duration(
        &mut table,
        "try-deadline",
        shortest..=MAX_TRY,
        default.try_deadline,
    );
    let windows = windows(&mut table);
    let held = held(&mut table);
    let downtime = flag(&mut table, "allow-control-plane-downtime");
    let checks = checks(&mut table);
    let force = force(&mut table);
    let paused = reason(&mut table, "paused");
    if let (Some(soak), Some(try_deadline), Some(span)) = (soak, try_deadline, table.span.clone())
        && soak >= try_deadline
    {
        table.fault(
            &span,
            "`soak` is no shorter than `try-deadline`: no node could ever keep a new system",
            "make `try-deadline` longer: it holds a reboot as well",
        );
    }
    if let (Some(windows), Some(need), Some(span)) = (&windows, try_deadline, table.span.clone())
        && !windows.is_empty()
        && windows.iter().all(|w| w.length < need)
    {
        table.fault(
            &span,
            "no window is as long as `try-deadline`: no step could ever begin",
            "make a window longer, or `try-deadline` shorter",
        );
    }
    table.finish();
    Some(Update {
        canary,
        soak: soak?,
        try_deadline: try_deadline?,
        windows: windows?,
        held: held?,
        allow_control_plane_downtime: downtime?,
        checks: checks?,
        force: force?,
        paused,
    })
}

fn canary(table: &mut Table<'_>) -> Option<NodeName> {
    let text = table.string("canary")?;
    let name = text.value.parse::<NodeName>();
    if let Err(fault) = &name {
        let problem = format!("the canary {fault}");
        table.fault(&text.span, problem, "write the name of a Node");
    }
    name.ok()
}

/// Words that say why.
fn reason(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let text = table.string(key)?;
    if text.value.trim().is_empty() {
        table.fault(
            &text.span,
            format!("`{key}` gives no reason"),
            "say why, for whoever reads it next",
        );
    }
    Some(text.value.to_owned())
}

fn windows(table: &mut Table<'_>) -> Option<Vec<Window>> {
    let entries = table.tables("windows", "window of [update]", EXAMPLE)?;
    let windows: Vec<_> = entries.into_iter().map(window).collect();
    windows.into_iter().collect()
}

fn window(mut table: Table<'_>) -> Option<Window> {
    let start = table.required_string("start", "\"0 2 * * 6\"");
    let length = table.required_string("length", "\"4h\"");
    let zone = table.required_string("zone", "\"Europe/Berlin\"");
    let length = length.and_then(|text| {
        super::values::read_duration(&table, "length", &text, Duration::ZERO..=MAX_LENGTH)
    });
    let span = start.as_ref().map(|text| text.span.clone());
    let read = start.zip(length).zip(zone);
    let window = read.map(|((start, length), zone)| Window {
        start: start.value.to_owned(),
        length,
        zone: zone.value.to_owned(),
    });
    let window = window.filter(|window| match (window.check(), &span) {
        (Err(problem), Some(span)) => {
            let remedy = format!("write it as {EXAMPLE}");
            table.fault(span, problem, remedy);
            false
        }
        _ => true,
    });
    table.finish();
    window
}

fn force(table: &mut Table<'_>) -> Option<Vec<Pods>> {
    const EXAMPLE: &str = "{ namespace = \"ci\", pods = \"app=runner\" }";
    let entries = table.tables("force", "force of [update]", EXAMPLE)?;
    let listed = entries.into_iter().map(|mut entry| {
        let pods = pods(&mut entry, Labels::Optional);
        entry.finish();
        pods
    });
    let listed: Vec<_> = listed.collect();
    listed.into_iter().collect()
}

fn checks(table: &mut Table<'_>) -> Option<BTreeMap<String, Check>> {
    let mut table = table.table("checks", "[update.checks]");
    let mut checks = Vec::new();
    for entry in table.take_all() {
        let name = entry.key.value;
        let check = table.as_table(&entry, &format!("check {name}"));
        let check = check.and_then(|mut check| {
            let pods = pods(&mut check, Labels::Required);
            let given = check.get("ready");
            let ready = given.map(|entry| check.whole(&entry, 1..=MAX_READY));
            check.finish();
            Some(Check {
                pods: pods?,
                ready: ready.map_or(Some(None), |ready| ready.map(Some))?,
            })
        });
        checks.push(check.map(|check| (name.to_owned(), check)));
    }
    table.finish();
    checks.into_iter().collect()
}

fn held(table: &mut Table<'_>) -> Option<BTreeMap<NodeName, String>> {
    let mut table = table.table("hold", "[update.hold]");
    let mut held = Vec::new();
    for entry in table.take_all() {
        let name = entry.key.value.parse::<NodeName>();
        if let Err(fault) = &name {
            table.fault(
                &entry.key.span,
                format!("the node {fault}"),
                "write the name of a Node, in quotes where it holds a dot",
            );
        }
        let why = table.as_string(&entry);
        let empty = why.as_ref().filter(|text| text.value.trim().is_empty());
        if let Some(text) = empty {
            table.fault(
                &text.span,
                format!("`{}` is held without a reason", entry.key.value),
                "say why, for whoever reads it next",
            );
        }
        held.push(name.ok().zip(why.map(|text| text.value.to_owned())));
    }
    table.finish();
    held.into_iter().collect()
}
