//! `riacho health`: whether the service of this configuration is ready, for the health check of a container.

use std::{net::IpAddr, time::Duration};

use anyhow::Context as _;
use serde_json::Value;

use super::Context;
use crate::{
    client::root_cause,
    exit::{Failure, Kind},
};

/// How long the service may take to answer. It answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let http = context.config()?.http;
    let address = reachable(http.ops_listen.as_deref().unwrap_or(&http.listen));
    let client =
        reqwest::Client::builder().timeout(PATIENCE).build().context("cannot make an HTTP client")?;
    let answer = client.get(format!("http://{address}/readyz")).send().await.map_err(|error| {
        Failure::error(Kind::Unreachable, format!("{address} does not answer: {}", root_cause(&error)))
    })?;
    if answer.status().is_success() {
        context.output.result(&serde_json::json!({ "ready": true }), || "ready".to_owned());
        return Ok(());
    }
    let status = answer.status();
    let report = answer.json().await.unwrap_or_default();
    Err(Failure::error(
        Kind::Failed,
        format!("{address} is not ready: {}", reasons(&report, status.as_str())),
    ))
}

/// The address that leads to a listener from the same machine: one that listens everywhere is there on loopback.
fn reachable(listen: &str) -> String {
    let Some((host, port)) = listen.rsplit_once(':') else { return listen.to_owned() };
    match host.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => format!("127.0.0.1:{port}"),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

/// Which dependencies are away, as the service's report says.
fn reasons(report: &Value, otherwise: &str) -> String {
    let dependencies = report["dependencies"].as_object().into_iter().flatten();
    let away: Vec<String> = dependencies
        .filter_map(|(name, dependency)| Some(format!("{name}: {}", dependency["error"].as_str()?)))
        .collect();
    if away.is_empty() { otherwise.to_owned() } else { away.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        assert_eq!(reachable("0.0.0.0:8001"), "127.0.0.1:8001");
        assert_eq!(reachable("[::]:8001"), "[::1]:8001");
        assert_eq!(reachable("10.1.2.3:80"), "10.1.2.3:80");
        assert_eq!(reachable("localhost:80"), "localhost:80");
    }

    #[test]
    fn what_is_away_is_named() {
        let report = serde_json::json!({ "dependencies": { "redis": { "status": "down", "error": "refused" },
                                                           "database": { "status": "up" } } });
        assert_eq!(reasons(&report, "503"), "redis: refused");
        assert_eq!(reasons(&Value::Null, "503"), "503");
    }
}
