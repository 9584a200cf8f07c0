//! `schemas/openapi.json` is what the code says.

/// With this set, the file is written instead of compared.
const UPDATE: &str = "RIACHO_UPDATE";

#[test]
fn the_openapi_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/openapi.json");
    let made = riacho_ingest_gateway::openapi_json().unwrap();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == made, "schemas/openapi.json is out of date; run the tests with {UPDATE}=1");
}
