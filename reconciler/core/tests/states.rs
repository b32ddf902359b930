//! docs/states.md says what the code says.

use fabrik_core::rollout::ways;

#[test]
fn the_page_of_the_states_is_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, ways::document()).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(page, ways::document(), "BLESS=1 writes it anew");
}
