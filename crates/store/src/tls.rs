//! Reading connection URLs, and TLS to PostgreSQL.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Config, Error};

/// A connection through which nothing comes any more is given up after this time: the system's own limits are a quarter of
/// an hour for what was sent, and two hours where an answer is awaited.
const SILENCE: Duration = Duration::from_secs(30);

/// Parses a URL of the configuration. Errors do not repeat the URL: it may hold a password.
pub(crate) fn parse_url(url: &str, config: &Config) -> Result<tokio_postgres::Config, Error> {
    // The certificate is always verified, so the stricter modes of libpq mean what `require` does.
    let url =
        url.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
    let mut parsed: tokio_postgres::Config =
        url.parse().map_err(|error| Error::Setup(format!("the database URL cannot be read: {error}")))?;
    if parsed.get_hosts().is_empty() {
        return Err(Error::Setup(
            "the database URL names no host; a Unix socket is given as ?host=/directory".into(),
        ));
    }
    parsed.connect_timeout(config.connect_timeout());
    if parsed.get_tcp_user_timeout().is_none() {
        parsed.tcp_user_timeout(SILENCE);
    }
    if parsed.get_keepalives_interval().is_none() {
        parsed.keepalives_interval(SILENCE / 6);
    }
    if parsed.get_keepalives_idle() == tokio_postgres::Config::new().get_keepalives_idle() {
        parsed.keepalives_idle(SILENCE / 3);
    }
    if parsed.get_application_name().is_none() {
        parsed.application_name("riacho");
    }
    Ok(parsed)
}

/// TLS with the authorities of the file, or the public ones.
pub(crate) fn connector(ca_file: Option<&Path>) -> Result<MakeRustlsConnect, Error> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => add_authorities(&mut roots, path)?,
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Setup(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), Error> {
    let wrong = |reason: String| Error::Setup(format!("tls_ca_file {}: {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("holds no certificate".into())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_of_sockets_and_servers_are_read_and_errors_keep_the_password() {
        let config = Config::default();
        for good in [
            "postgres:///riacho?host=/var/run/postgresql",
            "postgres://riacho@%2Ftmp%2Fdir/riacho",
            "postgresql://a:b@db.example:5433/x?sslmode=verify-full",
        ] {
            assert!(parse_url(good, &config).is_ok(), "{good}");
        }
        let error = parse_url("postgres://a:hunter2@h:port/x", &config).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(parse_url("postgres:///riacho", &config).unwrap_err().to_string().contains("host"));
    }
}
