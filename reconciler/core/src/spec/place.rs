//! What a key of `cluster.toml` says and where it stands, for whoever finds fault with it beside the parser.

use toml::de::DeTable;

use crate::diagnostic::Place;

/// The place of the value of `key` in `[table]`; that of the table where the key is left out; else the file.
pub fn place_of(file: &str, text: &str, table: &str, key: &str) -> Place {
    let (root, _) = DeTable::parse_recoverable(text);
    let Some((table, entries)) = root.get_ref().get_key_value(table) else {
        return Place::file(file);
    };
    let value = entries.get_ref().as_table().and_then(|t| t.get(key));
    let span = value.map_or_else(|| table.span(), toml::Spanned::span);
    Place::of_offset(file, text, span.start)
}

/// What `key` in `[table]` says, in a text that may be wrong elsewhere. `None` where it is left out or no text.
pub fn text_of(text: &str, table: &str, key: &str) -> Option<String> {
    let (root, _) = DeTable::parse_recoverable(text);
    let table = root.get_ref().get(table)?.get_ref().as_table()?;
    Some(table.get(key)?.get_ref().as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_placed_where_it_would_be() {
        let text = "# a\n[cluster]\nname = \"demo\"\n";
        let place = |table, key| place_of("c", text, table, key);
        assert_eq!(place("cluster", "name"), Place::at("c", 3, 8));
        assert_eq!(place("cluster", "other"), Place::at("c", 2, 2));
        assert_eq!(place("network", "pods"), Place::file("c"));
        assert_eq!(place_of("c", "[[", "a", "b"), Place::file("c"));
    }
}
