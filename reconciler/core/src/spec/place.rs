//! Where a key stands in `cluster.toml`, for whoever finds fault with its value later.

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
