//! What a load balancer listens for, and how it looks whether its targets are well.

use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// What Hetzner takes for what a body leaves out.
const INTERVAL: u64 = 15;
const TIMEOUT: u64 = 10;
const RETRIES: u64 = 3;

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub listen_port: u64,
    /// As it is shown.
    shown: Value,
}

impl Service {
    /// Reads a service of a body; what is missing comes from `old`, else from Hetzner's defaults.
    pub fn read(body: &Value, old: Option<&Self>) -> Result<Self, (&'static str, &'static str)> {
        let mut given = body.clone();
        if let Some(old) = old {
            given = old.shown.clone();
            overlay(&mut given, body);
        }
        let protocol = match given["protocol"].as_str() {
            Some(protocol @ ("tcp" | "http")) => protocol,
            Some("https") => return Err(("protocol", "https needs certificates: not known here")),
            _ => return Err(("protocol", "must be 'tcp', 'http' or 'https'")),
        };
        let http = protocol == "http";
        let default_port = http.then_some(80);
        let listen_port =
            port(&given["listen_port"], default_port).ok_or(("listen_port", "must be a port"))?;
        let destination_port = port(&given["destination_port"], default_port)
            .ok_or(("destination_port", "must be a port"))?;
        let mut shown = json!({
            "protocol": protocol,
            "listen_port": listen_port,
            "destination_port": destination_port,
            "proxyprotocol": given["proxyprotocol"].as_bool().unwrap_or(false),
            "health_check": health_check(&given["health_check"], protocol, destination_port)?,
        });
        if http {
            let mut settings = json!({
                "cookie_name": "HCLBSTICKY",
                "cookie_lifetime": 300,
                "certificates": [],
                "redirect_http": false,
                "sticky_sessions": false,
                "timeout_idle": 60,
            });
            overlay(&mut settings, &given["http"]);
            shown["http"] = settings;
        }
        Ok(Self { listen_port, shown })
    }

    pub fn render(&self) -> Value {
        self.shown.clone()
    }
}

fn health_check(
    given: &Value,
    protocol: &str,
    destination_port: u64,
) -> Result<Value, (&'static str, &'static str)> {
    let protocol = given["protocol"].as_str().unwrap_or(protocol);
    if !["tcp", "http"].contains(&protocol) {
        return Err(("health_check.protocol", "must be 'tcp' or 'http'"));
    }
    let port = port(&given["port"], Some(destination_port))
        .ok_or(("health_check.port", "must be a port"))?;
    let (interval, timeout) = (
        number(given, "interval", INTERVAL),
        number(given, "timeout", TIMEOUT),
    );
    let retries = number(given, "retries", RETRIES);
    if timeout > interval {
        return Err((
            "health_check.timeout",
            "must not be longer than the interval",
        ));
    }
    let mut shown = json!({
        "protocol": protocol,
        "port": port,
        "interval": interval,
        "timeout": timeout,
        "retries": retries,
    });
    if protocol == "http" {
        let mut http = json!({
            "domain": "",
            "path": "/",
            "response": "",
            "status_codes": ["2??", "3??"],
            "tls": false,
        });
        overlay(&mut http, &given["http"]);
        shown["http"] = http;
    }
    Ok(shown)
}

/// Refuses services that want the same port, and more than the type takes.
pub fn require_room(services: &[Service], most: usize) -> Result<(), ApiError> {
    let twice = |nth: usize| {
        let others = &services[..nth];
        others
            .iter()
            .any(|s| s.listen_port == services[nth].listen_port)
    };
    if (0..services.len()).any(twice) {
        let message = "source port is already used";
        return Err(ApiError::operation("source_port_already_used", message));
    }
    if services.len() > most {
        let message = format!("this type takes no more than {most} services");
        return Err(ApiError::limit_exceeded("load_balancer_services", message));
    }
    Ok(())
}

fn port(value: &Value, default: Option<u64>) -> Option<u64> {
    if value.is_null() {
        return default;
    }
    value.as_u64().filter(|port| (1..=65_535).contains(port))
}

fn number(given: &Value, name: &str, default: u64) -> u64 {
    given[name].as_u64().unwrap_or(default)
}

/// The fields of `change` replace those of `base`, also inside objects.
fn overlay(base: &mut Value, change: &Value) {
    let none = Map::new();
    for (name, value) in change.as_object().unwrap_or(&none) {
        match (&base[name], value) {
            (_, Value::Null) => {}
            (Value::Object(_), Value::Object(_)) => overlay(&mut base[name], value),
            _ => base[name] = value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_shown_whole_and_an_update_changes_what_it_names() {
        let body = json!({"protocol": "tcp", "listen_port": 6443, "destination_port": 6443});
        let service = Service::read(&body, None).unwrap();
        assert_eq!(
            service.render()["health_check"],
            json!({"protocol": "tcp", "port": 6443, "interval": 15, "timeout": 10, "retries": 3})
        );
        let change = json!({"listen_port": 6443, "health_check": {"interval": 30}});
        let changed = Service::read(&change, Some(&service)).unwrap().render();
        assert_eq!(changed["health_check"]["interval"], 30);
        assert_eq!(changed["health_check"]["retries"], 3);
        assert_eq!(changed["destination_port"], 6443);
    }

    #[test]
    fn a_service_without_ports_or_with_a_foreign_protocol_is_refused() {
        for body in [
            json!({"protocol": "tcp", "listen_port": 80}),
            json!({"protocol": "udp", "listen_port": 80, "destination_port": 80}),
            json!({"protocol": "tcp", "listen_port": 0, "destination_port": 80}),
        ] {
            assert!(Service::read(&body, None).is_err(), "{body}");
        }
    }
}
