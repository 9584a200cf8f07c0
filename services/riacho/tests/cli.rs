//! The command line without a deployment: help, configuration, what is said when nothing can be reached.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;

use riacho_testkit::process::free_port;
use support::{errors_of, riacho, text_of, workspace};

#[tokio::test]
async fn the_help_names_every_command_and_the_exit_codes() {
    let help = text_of(&riacho(&["--help"]).await);
    for command in [
        "up",
        "ingest-gateway",
        "extractor",
        "embedder",
        "indexer",
        "janitor",
        "work",
        "migrate",
        "ingest",
        "search",
        "status",
        "config",
        "key",
        "tenant",
        "dead-letters",
        "completions",
        "Exit codes",
    ] {
        assert!(help.contains(command), "{command} is not in {help}");
    }
}

#[tokio::test]
async fn an_unknown_key_is_one_line_with_the_nearest_known_one() {
    let output = riacho(&["config", "check", "--set", "gateway.max_upload_byte=1"]).await;
    assert_eq!(output.status.code(), Some(2));
    let error = errors_of(&output);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains("unknown key `gateway.max_upload_byte`; did you mean `gateway.max_upload_bytes`?"),
        "{error}"
    );
}

#[tokio::test]
async fn a_wrong_value_and_an_absent_file_are_wrong_usage() {
    let output = riacho(&["config", "check", "--set", "gateway.max_upload_bytes=lots", "--json"]).await;
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_str(errors_of(&output).trim()).unwrap();
    assert!(error["error"].as_str().unwrap().contains("gateway.max_upload_bytes"), "{error}");

    let output = riacho(&["config", "check", "--config", "/nowhere/riacho.toml"]).await;
    assert_eq!(output.status.code(), Some(2));
    let error = errors_of(&output);
    assert!(error.contains("/nowhere/riacho.toml"), "{error}");
    assert_eq!(error.matches("No such file").count(), 1, "the cause is said once: {error}");
}

#[tokio::test]
async fn files_that_would_be_accepted_and_then_fail_are_a_wrong_configuration() {
    for (key, value) in
        [("gateway.max_upload_bytes", "104857601"), ("extractor.parser.limits.max_file_bytes", "104857599")]
    {
        let set = format!("{key}={value}");
        for command in [&["config", "check"][..], &["ingest-gateway"], &["extractor"], &["up"]] {
            let output = riacho(&[command, &["--set", &set]].concat()).await;
            let error = errors_of(&output);
            assert_eq!(output.status.code(), Some(2), "{command:?}: {error}");
            assert!(
                error.contains("gateway.max_upload_bytes") && error.contains("limits.max_file_bytes"),
                "{error}"
            );
        }
    }
    let both =
        ["--set", "gateway.max_upload_bytes=1000", "--set", "extractor.parser.limits.max_file_bytes=1000"];
    assert!(riacho(&[&["config", "check"], &both[..]].concat()).await.status.success());
}

#[tokio::test]
async fn an_address_that_is_none_is_wrong_usage() {
    for address in ["foo", "127.0.0.1:99999", ":80"] {
        for command in ["up", "ingest-gateway"] {
            let output = riacho(&[command, "--listen", address]).await;
            let error = errors_of(&output);
            assert_eq!(output.status.code(), Some(2), "{error}");
            assert!(error.contains(address) && error.contains("HOST:PORT"), "{error}");
        }
        let output = riacho(&["config", "check", "--set", &format!("http.listen={address}")]).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(errors_of(&output).contains("http.listen"), "{}", errors_of(&output));
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_a_wrong_configuration_and_is_not_shown() {
    for (key, value) in [
        ("database.url", "mysql://me:hunter2@host/db"),
        ("database.read_url", "postgres://me:hunter2@host:notaport/db"),
        ("redis.url", "http://me:hunter2@host"),
        ("objects.s3.endpoint", "not a url"),
    ] {
        let output = riacho(&["config", "check", "--set", &format!("{key}={value}")]).await;
        let error = errors_of(&output);
        assert_eq!(output.status.code(), Some(2), "{key}: {error}");
        assert!(error.contains(key) && !error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_has_ended_before_it_begins_is_wrong_usage() {
    let output = riacho(&["key", "create", "--expires-at", "2020-01-01T00:00:00Z"]).await;
    assert_eq!(output.status.code(), Some(2));
    let error = errors_of(&output);
    assert!(error.contains("--expires-at") && error.contains("it is past"), "{error}");
}

#[tokio::test]
async fn the_configuration_is_printed_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("riacho.toml");
    fs::write(
        &file,
        "[models]\nprovider = \"openai\"\napi_key = \"hunter2\"\n[http]\nmetrics_token = \"hunter3\"\n",
    )
    .unwrap();
    for format in [&["config", "print"][..], &["config", "print", "--json"]] {
        let flags = [
            "--config",
            file.to_str().unwrap(),
            "--set",
            "redis.url=redis://u:hunter4@h:1",
            "--set",
            "database.url=postgres://me:hunter5@db.example/riacho",
        ];
        let output = riacho(&[format, &flags].concat()).await;
        assert!(output.status.success(), "{}", errors_of(&output));
        let text = text_of(&output);
        assert!(text.contains("***") && text.contains("openai") && !text.contains("hunter"), "{text}");
        // What is no secret helps to see which servers are meant.
        for shown in ["redis://u:***@h:1", "postgres://me:***@db.example/riacho"] {
            assert!(text.contains(shown), "{text}");
        }
    }
}

/// Run with `RIACHO_UPDATE=1` to write the file anew.
#[tokio::test]
async fn the_checked_in_schema_is_that_of_the_code() {
    let schema = text_of(&riacho(&["config", "schema"]).await);
    let file = workspace().join("schemas/config.schema.json");
    if std::env::var_os("RIACHO_UPDATE").is_some() {
        fs::write(&file, &schema).unwrap();
    }
    let checked_in = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        checked_in == schema,
        "schemas/config.schema.json is out of date; run this test with RIACHO_UPDATE=1"
    );
}

#[tokio::test]
async fn a_server_that_is_away_has_an_exit_code_of_its_own() {
    let url = format!("http://127.0.0.1:{}", free_port().unwrap());
    let output = riacho(&["search", "river", "--url", &url, "--api-key", "rk_x_y"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", errors_of(&output));
    let error = errors_of(&output);
    assert!(
        error.lines().count() == 1 && error.contains(&url) && error.contains("is `riacho up` running?"),
        "{error}"
    );

    let url = format!("database.url=postgresql://x@127.0.0.1:{}/x", free_port().unwrap());
    let output = riacho(&["tenant", "list", "--set", &url]).await;
    assert_eq!(output.status.code(), Some(3), "{}", errors_of(&output));
}

#[tokio::test]
async fn what_is_missing_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let output = riacho(&["search", "river", "--data-dir", dir]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors_of(&output).contains("no API key: give --api-key or RIACHO_API_KEY"),
        "{}",
        errors_of(&output)
    );
    let output = riacho(&["ingest", "/nowhere/at/all", "--api-key", "rk_x_y"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(errors_of(&output).contains("/nowhere/at/all"));
}

#[tokio::test]
async fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text_of(&riacho(&["completions", shell]).await);
        assert!(script.contains("ingest-gateway") && !script.contains("parse-child"), "{shell}");
    }
}
