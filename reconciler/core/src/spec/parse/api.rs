//! `[api]`.

use core::net::IpAddr;

use super::super::kubernetes_syntax::is_subdomain;
use super::super::reader::{Table, Text};
use super::super::{Api, Firewall, FloatingIp, IpFamily, LoadBalancer};
use super::location::check_location;
use super::pool::is_letters_then_digits;
use super::values::flag;

const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// `None` only when a fault was noted.
pub fn api(root: &mut Table<'_>, zone: Option<&str>, firewall: Option<&Firewall>) -> Option<Api> {
    let mut table = root.table("api", "[api]");
    let name = match table.get("name") {
        None => Some(None),
        Some(entry) => table
            .as_string(&entry)
            .and_then(|text| dns_name(&table, &text))
            .map(Some),
    };
    let load_balancer = match table.get("load-balancer") {
        None => Some(None),
        Some(entry) => table
            .as_table(&entry, "[api.load-balancer]")
            .and_then(|table| load_balancer(table, zone, firewall))
            .map(Some),
    };
    let floating_ip = match table.get("floating-ip") {
        None => Some(None),
        Some(entry) => table
            .as_table(&entry, "[api.floating-ip]")
            .and_then(|table| floating_ip(table, zone))
            .map(Some),
    };
    table.finish();
    Some(Api {
        load_balancer: load_balancer?,
        floating_ip: floating_ip?,
        name: name?,
    })
}

fn dns_name(table: &Table<'_>, text: &Text<'_>) -> Option<String> {
    // An address has no letters, and k3s takes it for one.
    let is_name = is_subdomain(text.value) && text.value.contains(|c: char| c.is_ascii_lowercase());
    if !is_name {
        let problem = format!("`{}` is no DNS name", text.value);
        table.fault(&text.span, problem, "write it like `api.example.com`");
    }
    is_name.then(|| text.value.to_owned())
}

fn load_balancer(
    mut table: Table<'_>,
    zone: Option<&str>,
    firewall: Option<&Firewall>,
) -> Option<LoadBalancer> {
    let kind = table.required_string("type", "\"lb11\"").filter(|text| {
        let fits = text.value.starts_with("lb") && is_letters_then_digits(text.value);
        if !fits {
            let problem = format!("`{}` is no type of a load balancer", text.value);
            table.fault(&text.span, problem, "use `lb11`, `lb21` or `lb31`");
        }
        fits
    });
    let location = table.required_string("location", "\"fsn1\"");
    let location = location.filter(|text| check_location(&table, text, zone));
    let private = flag(&mut table, "private");
    if private == Some(false) && firewall.is_some_and(|firewall| !lets_all_in(firewall)) {
        table.missing(
            "lets everybody reach the API servers, and `api-from` in [firewall] does not: Hetzner's firewalls stand \
             before servers alone",
            "add `private = true` here, or let everybody in there: `api-from = [\"0.0.0.0/0\", \"::/0\"]`",
        );
    }
    let address = address(&mut table, |_| true);
    table.finish();
    Some(LoadBalancer {
        kind: kind?.value.to_owned(),
        location: location?.value.to_owned(),
        public: !private?,
        address,
    })
}

fn floating_ip(mut table: Table<'_>, zone: Option<&str>) -> Option<FloatingIp> {
    let family = table.required_string("type", "\"ipv4\"").and_then(|text| {
        let families = [IpFamily::Ipv4, IpFamily::Ipv6];
        let family = families.into_iter().find(|it| it.word() == text.value);
        if family.is_none() {
            let problem = format!("`{}` is no type of a floating IP", text.value);
            table.fault(&text.span, problem, "use `ipv4` or `ipv6`");
        }
        family
    });
    let location = table.required_string("location", "\"fsn1\"");
    let location = location.filter(|text| check_location(&table, text, zone));
    let address = address(&mut table, |ip| {
        family.is_none_or(|family| ip.is_ipv4() == (family == IpFamily::Ipv4))
    });
    table.finish();
    Some(FloatingIp {
        family: family?,
        location: location?.value.to_owned(),
        address,
    })
}

/// What it came to have, as `fabrik status` tells. `None` where it is not named, or a fault was noted.
fn address(table: &mut Table<'_>, fits: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let entry = table.get("address")?;
    let text = table.as_string(&entry)?;
    let address = text.value.parse().ok().filter(fits);
    if address.is_none() {
        let problem = format!("`{}` is no address of that kind", text.value);
        table.fault(
            &text.span,
            problem,
            "copy it from `fabrik status`, or leave it out",
        );
    }
    address
}

fn lets_all_in(firewall: &Firewall) -> bool {
    EVERYBODY
        .iter()
        .all(|all| firewall.api_from.iter().any(|from| from == all))
}
