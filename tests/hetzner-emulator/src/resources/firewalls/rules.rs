//! The rules of a firewall.

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::input::Input;

const MAX_RULES: usize = 50;
const PROTOCOLS_WITH_PORT: [&str; 2] = ["tcp", "udp"];
const PROTOCOLS_WITHOUT_PORT: [&str; 3] = ["icmp", "esp", "gre"];

/// The `rules` of a body, in the shape in which they are shown.
pub fn of_body(input: &mut Input) -> Vec<Value> {
    let values = input.list("rules");
    if values.len() > MAX_RULES {
        input.reject("rules", format!("must be no more than {MAX_RULES}"));
    }
    let mut rules = Vec::new();
    for (nth, value) in values.iter().enumerate() {
        match read(value) {
            Ok(rule) => rules.push(rule),
            Err((field, message)) => input.reject(&format!("rules.{nth}.{field}"), message),
        }
    }
    rules
}

fn read(rule: &Value) -> Result<Value, (&'static str, String)> {
    let text = |field: &str| rule[field].as_str();
    let direction = text("direction").unwrap_or_default();
    // The ranges of the other side are what the direction makes necessary.
    let needed = match direction {
        "in" => "source_ips",
        "out" => "destination_ips",
        _ => return Err(("direction", "must be 'in' or 'out'".to_owned())),
    };
    let protocol = text("protocol").unwrap_or_default();
    let port = text("port");
    match (PROTOCOLS_WITH_PORT.contains(&protocol), port) {
        (true, Some(port)) if valid_port(port) => {}
        (true, _) => return Err(("port", "must be a port or a range of ports".to_owned())),
        (false, Some(_)) => return Err(("port", format!("'{protocol}' has no ports"))),
        (false, None) if PROTOCOLS_WITHOUT_PORT.contains(&protocol) => {}
        (false, None) => return Err(("protocol", format!("'{protocol}' is not known"))),
    }
    let sources = ranges(rule, "source_ips")?;
    let destinations = ranges(rule, "destination_ips")?;
    let of_other_side = if direction == "in" {
        &sources
    } else {
        &destinations
    };
    if of_other_side.is_empty() {
        return Err((needed, "missing data for required field".to_owned()));
    }
    Ok(json!({
        "direction": direction,
        "protocol": protocol,
        "port": port,
        "source_ips": sources,
        "destination_ips": destinations,
        "description": rule["description"],
    }))
}

fn ranges(rule: &Value, field: &'static str) -> Result<Vec<String>, (&'static str, String)> {
    let values = match &rule[field] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(values) => values,
        _ => return Err((field, "must be a list".to_owned())),
    };
    values
        .iter()
        .map(|value| {
            let range = value.as_str().and_then(|text| text.parse::<IpNet>().ok());
            let range = range.filter(|range| range.trunc() == *range);
            range
                .map(|range| range.to_string())
                .ok_or_else(|| (field, format!("{value} is not a range in CIDR notation")))
        })
        .collect()
}

/// `80`, `80-85` or `any`.
fn valid_port(text: &str) -> bool {
    if text == "any" {
        return true;
    }
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match text.split_once('-') {
        Some((from, to)) => matches!((port(from), port(to)), (Some(a), Some(b)) if a <= b),
        None => port(text).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(change: &Value) -> Value {
        let mut rule = json!({"direction": "in", "protocol": "tcp", "port": "22",
            "source_ips": ["0.0.0.0/0", "::/0"]});
        for (key, value) in change.as_object().unwrap() {
            rule[key] = value.clone();
        }
        rule
    }

    #[test]
    fn a_rule_is_shown_whole() {
        let shown = read(&rule(&json!({"description": "ssh"}))).unwrap();
        assert_eq!(
            shown,
            json!({"direction": "in", "protocol": "tcp", "port": "22", "description": "ssh",
                   "source_ips": ["0.0.0.0/0", "::/0"], "destination_ips": []})
        );
    }

    #[test]
    fn a_wrong_rule_names_its_field() {
        let cases = [
            (json!({"direction": "sideways"}), "direction"),
            (json!({"port": null}), "port"),
            (json!({"port": "0"}), "port"),
            (json!({"port": "9-3"}), "port"),
            (json!({"protocol": "icmp"}), "port"),
            (json!({"protocol": "smoke", "port": null}), "protocol"),
            (json!({"source_ips": []}), "source_ips"),
            (json!({"source_ips": ["10.0.0.1/8"]}), "source_ips"),
            (json!({"direction": "out"}), "destination_ips"),
        ];
        for (change, field) in cases {
            assert_eq!(read(&rule(&change)).unwrap_err().0, field, "{change}");
        }
    }
}
