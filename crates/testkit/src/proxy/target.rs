//! Where a proxy leads, by the URL that clients use.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// Stands for the proxy's address in a URL.
pub(super) const ADDRESS: &str = "PROXY";

/// The server behind a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Tcp(String),
    Unix(PathBuf),
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Target {
    /// The server of a URL, and the same URL with [`ADDRESS`] in its place.
    pub(super) fn of(url: &str) -> Result<(Target, String)> {
        let (scheme, rest) = url.split_once("://").with_context(|| format!("{url:?} is no URL"))?;
        if scheme == "redis+unix" {
            return Ok((Target::Unix(rest.into()), format!("redis://{ADDRESS}")));
        }
        if !["redis", "postgres", "postgresql", "http"].contains(&scheme) {
            bail!("no proxy for {scheme}");
        }
        let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        let (login, host) = authority.rsplit_once('@').map_or(("", authority), |(login, host)| (login, host));
        let login = if login.is_empty() { String::new() } else { format!("{login}@") };
        let target = match host.strip_prefix("%2F") {
            Some(directory) => {
                Target::Unix(Path::new("/").join(directory.replace("%2F", "/")).join(".s.PGSQL.5432"))
            }
            None => Target::Tcp(host.to_owned()),
        };
        Ok((target, format!("{scheme}://{login}{ADDRESS}{path}")))
    }

    pub(super) async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Target::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_servers_of_tests_are_found_by_their_urls() {
        let cases = [
            ("redis+unix:///dev/shm/x/redis.sock", "redis://PROXY", "/dev/shm/x/redis.sock"),
            (
                "postgresql://riacho@%2Ftmp%2Fpg0/test_1",
                "postgresql://riacho@PROXY/test_1",
                "/tmp/pg0/.s.PGSQL.5432",
            ),
        ];
        for (url, through, socket) in cases {
            assert_eq!(Target::of(url).unwrap(), (Target::Unix(socket.into()), through.to_owned()));
        }
        let tcp = |address: &str| Target::Tcp(address.to_owned());
        assert_eq!(
            Target::of("http://127.0.0.1:81").unwrap(),
            (tcp("127.0.0.1:81"), "http://PROXY".to_owned())
        );
        let (target, url) = Target::of("postgresql://a:b@db:5433/x?sslmode=disable").unwrap();
        assert_eq!((target, url.as_str()), (tcp("db:5433"), "postgresql://a:b@PROXY/x?sslmode=disable"));
        assert!(Target::of("ftp://x").is_err() && Target::of("x").is_err());
    }
}
