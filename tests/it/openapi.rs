//! The document that clients are generated from.

/// `BLESS=1` writes the file anew; `graphloom openapi > openapi.json` does the same.
#[test]
fn the_checked_in_document_is_what_the_service_serves() {
    let golden = graphloom::server::openapi::golden();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write("openapi.json", &golden).unwrap();
    }
    let file = std::fs::read_to_string("openapi.json").unwrap();
    assert!(
        file == golden,
        "openapi.json is not what the code gives; run `graphloom openapi > openapi.json`"
    );
}
