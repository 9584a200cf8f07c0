//! The page of text that says what runs where.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use riacho_local::ServerStatus;
use serde_json::json;

use super::Deployment;
use crate::output::Output;

/// The address for a browser on this machine.
pub(super) fn url_of(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// Prints the page, or the same as an object with `--json`.
pub(super) fn print(output: Output, deployment: &Deployment<'_>, took: Duration) {
    let url = url_of(deployment.address);
    let key_file = deployment.data_dir.api_key();
    let status = deployment.servers.status();
    let value = json!({
        "ready": true, "url": url, "seconds": took.as_secs_f64(), "pid": std::process::id(),
        "data_dir": deployment.data_dir.path(), "api_key_file": key_file,
        "redis": status.redis, "postgres": status.postgres,
    });
    output.result(&value, || text(deployment, &url, took));
}

fn text(deployment: &Deployment<'_>, url: &str, took: Duration) -> String {
    let dir = deployment.data_dir.path().display();
    let key_file = deployment.data_dir.api_key();
    let key_file = key_file.display();
    let status = deployment.servers.status();
    let redis = server(status.redis.as_ref(), "redis.url");
    let postgres = server(status.postgres.as_ref(), "database.url");
    let (version, pid, key) = (env!("CARGO_PKG_VERSION"), std::process::id(), &deployment.api_key);
    let seconds = took.as_secs_f64();
    format!(
        "
Riacho {version} serves. It was ready after {seconds:.1} s.

  page         {url}/
  API          {url}/api/v1
  reference    {url}/docs
  health       {url}/health
  metrics      {url}/metrics
  API key      {key}
               tenant default, all scopes; also in {key_file}
  data         {dir}
  Redis        {redis}
  PostgreSQL   {postgres}
  services     ingest-gateway, extractor, embedder, indexer, janitor (process {pid})

Try it from another terminal:

  KEY=$(cat {key_file})
  curl -H \"Authorization: Bearer $KEY\" -F file=@README.md {url}/api/v1/documents
  curl -H \"Authorization: Bearer $KEY\" --json '{{\"query\": \"how to start\"}}' {url}/api/v1/search

Ctrl-C stops everything."
    )
}

fn server(status: Option<&ServerStatus>, key: &str) -> String {
    match status {
        None => format!("the one of {key}"),
        Some(server) => {
            let port = server.port.map_or_else(String::new, |port| format!(", port {port}"));
            format!("private, process {}{port}, socket {}", server.pid, server.socket.display())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_unspecified_address_is_shown_as_one_that_works() {
        assert_eq!(url_of("0.0.0.0:80".parse().unwrap()), "http://127.0.0.1:80");
        assert_eq!(url_of("[::]:80".parse().unwrap()), "http://[::1]:80");
        assert_eq!(url_of("10.0.0.1:80".parse().unwrap()), "http://10.0.0.1:80");
    }
}
