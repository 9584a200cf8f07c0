//! Requests to addresses that somebody outside names: webhooks, and uploads by URL.
//!
//! Such an address must not lead inward. A name is looked up once for each connection, every answer is checked, and the
//! connection goes to what was checked: an answer that changes between the check and the connection has no
//! way in. Redirects are not followed by themselves, and no proxy of the environment is used, since it would look names up
//! itself.

mod address;

use std::{
    error::Error as StdError,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::{
    Method, RequestBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
};
use url::{Host, Url};

/// The longest URL that is taken.
pub const MAX_URL: usize = 2_000;

/// Why a request could not be sent, or was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutwardError {
    /// The address is none that can be used.
    #[error("{0}")]
    Url(String),
    /// The address leads inward.
    #[error("the address is not of the public network")]
    Inward,
    /// The name has no address.
    #[error("the name of the address cannot be looked up")]
    Unknown,
    /// No answer came in time.
    #[error("no answer came in time")]
    Timeout,
    /// No connection, or it broke.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// The client cannot be made.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

impl OutwardError {
    /// Whether it may go well later: the address itself is no obstacle.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, OutwardError::Unknown | OutwardError::Timeout | OutwardError::Connection(_))
    }
}

/// Which addresses requests may go to: public ones that are not this host's, and those of networks that are named.
#[derive(Debug, Clone, Default)]
struct Rules(Arc<[IpNet]>);

impl Rules {
    fn allow(&self, address: IpAddr) -> bool {
        let canonical = address.to_canonical();
        let is_outside = address::is_public(canonical) && !address::is_this_hosts(canonical);
        is_outside || self.0.iter().any(|network| network.contains(&canonical))
    }
}

/// Looks names up.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

fn system() -> Lookup {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) }))
}

/// Answers only addresses that requests may go to.
#[derive(Clone)]
struct Checked {
    rules: Rules,
    lookup: Lookup,
}

impl Checked {
    /// The addresses of a name. One that leads inward spoils the others: nobody needs both.
    async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, OutwardError> {
        let found = (self.lookup)(name.to_owned()).await.map_err(|_| OutwardError::Unknown)?;
        match found.iter().all(|address| self.rules.allow(address.ip())) {
            _ if found.is_empty() => Err(OutwardError::Unknown),
            true => Ok(found),
            false => Err(OutwardError::Inward),
        }
    }
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let checked = self.clone();
        Box::pin(async move {
            let found = checked.addresses(name.as_str()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A client for addresses that somebody outside names. Cheap to clone.
#[derive(Clone)]
pub struct Outward {
    client: reqwest::Client,
    checked: Checked,
}

impl fmt::Debug for Outward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outward").field("allowed", &self.checked.rules.0).finish_non_exhaustive()
    }
}

/// Reads the networks that requests may go to although they are not public.
///
/// # Errors
/// The text that is no network, such as `10.0.0.0/8`, and no address.
pub fn networks(texts: &[String]) -> Result<Vec<IpNet>, String> {
    let network = |text: &String| {
        let one = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        one.ok_or_else(|| format!("{text:?} is no network such as 10.0.0.0/8, and no address"))
    };
    texts.iter().map(network).collect()
}

impl Outward {
    /// A client that gives up a connection after `connect`, and one that says nothing after `silence`.
    ///
    /// # Errors
    /// A network that cannot be read.
    pub fn new(allowed: &[String], connect: Duration, silence: Duration) -> Result<Outward, OutwardError> {
        Self::with_lookup(allowed, connect, silence, system())
    }

    fn with_lookup(
        allowed: &[String],
        connect: Duration,
        silence: Duration,
        lookup: Lookup,
    ) -> Result<Outward, OutwardError> {
        // One provider of cryptography for the process; it may be there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let rules = Rules(networks(allowed).map_err(OutwardError::Client)?.into());
        let checked = Checked { rules, lookup };
        let client = reqwest::Client::builder()
            .dns_resolver(Arc::new(checked.clone()))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(connect)
            .read_timeout(silence)
            .user_agent(concat!("riacho/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| OutwardError::Client(error.to_string()))?;
        Ok(Outward { client, checked })
    }

    /// Whether requests may go to networks that are not public.
    #[must_use]
    pub fn allows_private(&self) -> bool {
        !self.checked.rules.0.is_empty()
    }

    /// Reads an address, looks it up, and says whether requests may go there now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn check(&self, text: &str) -> Result<Url, OutwardError> {
        let url = parse(text)?;
        self.literal(&url)?;
        if let Some(Host::Domain(name)) = url.host() {
            self.checked.addresses(name).await?;
        }
        Ok(url)
    }

    /// A request to an address.
    ///
    /// # Errors
    /// Where it is a number that leads inward. A name that does is found when the request is sent.
    pub fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, OutwardError> {
        self.literal(url)?;
        Ok(self.client.request(method, url.clone()))
    }

    /// A number is not looked up, so it is checked here.
    fn literal(&self, url: &Url) -> Result<(), OutwardError> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(OutwardError::Url("the address names no host".to_owned())),
        };
        if self.checked.rules.allow(address) { Ok(()) } else { Err(OutwardError::Inward) }
    }
}

/// Reads an address that a request may be made of.
fn parse(text: &str) -> Result<Url, OutwardError> {
    let wrong = |why: &str| OutwardError::Url(why.to_owned());
    if text.len() > MAX_URL {
        return Err(OutwardError::Url(format!("the address is longer than {MAX_URL} bytes")));
    }
    let url = Url::parse(text)
        .map_err(|error| OutwardError::Url(format!("the address cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("the address must begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("the address must not contain a name or a password"));
    }
    Ok(url)
}

impl From<reqwest::Error> for OutwardError {
    fn from(error: reqwest::Error) -> Self {
        // Without the address, which may carry a secret.
        let error = error.without_url();
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
        let mut last = error.to_string();
        while let Some(one) = cause {
            if let Some(ours) = one.downcast_ref::<OutwardError>() {
                return ours.clone();
            }
            last = one.to_string();
            cause = one.source();
        }
        if error.is_timeout() { OutwardError::Timeout } else { OutwardError::Connection(last) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn outward(allowed: &[&str], lookup: Lookup) -> Outward {
        let allowed: Vec<String> = allowed.iter().map(|text| (*text).to_owned()).collect();
        Outward::with_lookup(&allowed, 5 * SECOND, 5 * SECOND, lookup).unwrap()
    }

    /// Answers these addresses, one lookup after another; the last one for ever.
    fn answering(answers: &[&[&str]]) -> (Lookup, Arc<AtomicUsize>) {
        let parse =
            |texts: &&[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let answers: Vec<Vec<SocketAddr>> = answers.iter().map(parse).collect();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let lookup: Lookup = Arc::new(move |_| {
            let turn = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let answer = answers[turn].clone();
            Box::pin(async move { Ok(answer) })
        });
        (lookup, asked)
    }

    /// A server on loopback that answers everything with 204, and counts connections.
    async fn server() -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        (port, seen)
    }

    async fn get(outward: &Outward, url: &str) -> Result<u16, OutwardError> {
        let url = parse(url)?;
        Ok(outward.request(Method::GET, &url)?.send().await?.status().as_u16())
    }

    #[tokio::test]
    async fn addresses_that_lead_inward_are_refused_however_they_are_written() {
        let (port, seen) = server().await;
        let outward = outward(&[], system());
        for host in [
            "127.0.0.1",
            "localhost",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "0.0.0.0",
            "169.254.169.254",
            "10.0.0.1",
            "LOCALHOST",
        ] {
            let url = format!("http://{host}:{port}/");
            assert_eq!(outward.check(&url).await, Err(OutwardError::Inward), "{host}");
            assert_eq!(get(&outward, &url).await, Err(OutwardError::Inward), "{host}");
        }
        assert_eq!(seen.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_name_that_was_public_when_it_was_checked_and_is_not_any_more_is_refused() {
        let (port, seen) = server().await;
        let (lookup, asked) = answering(&[&["1.1.1.1:0"], &["127.0.0.1:0"]]);
        let outward = outward(&[], lookup);
        let url = format!("http://rebinding.example:{port}/");
        assert!(outward.check(&url).await.is_ok());
        assert_eq!(get(&outward, &url).await, Err(OutwardError::Inward));
        assert_eq!((asked.load(Ordering::SeqCst), seen.load(Ordering::SeqCst)), (2, 0));
    }

    #[tokio::test]
    async fn one_inward_address_among_public_ones_spoils_them() {
        let (lookup, _) = answering(&[&["1.1.1.1:0", "127.0.0.1:0"]]);
        let outward = outward(&[], lookup);
        assert_eq!(outward.check("https://both.example/").await, Err(OutwardError::Inward));
    }

    #[tokio::test]
    async fn a_connection_goes_to_what_was_looked_up_for_it() {
        let (port, seen) = server().await;
        let (lookup, asked) = answering(&[&["127.0.0.1:0"]]);
        let outward = outward(&["127.0.0.0/8"], lookup);
        assert_eq!(get(&outward, &format!("http://private.example:{port}/x")).await, Ok(204));
        assert_eq!((asked.load(Ordering::SeqCst), seen.load(Ordering::SeqCst)), (1, 1));
        assert!(outward.allows_private());
        // Only what is named: the rest stays inward.
        assert_eq!(get(&outward, "http://10.0.0.1/").await, Err(OutwardError::Inward));
    }

    #[tokio::test]
    async fn addresses_that_are_none_are_said_to_be() {
        let outward = outward(&[], system());
        let long = format!("https://example.org/{}", "x".repeat(MAX_URL));
        for (url, said) in [
            ("ftp://example.org/", "https://"),
            ("file:///etc/passwd", "https://"),
            ("https://", "cannot be read"),
            ("example.org", "cannot be read"),
            ("https://me:secret@example.org/", "a name or a password"),
            (&long, "longer than"),
        ] {
            let error = outward.check(url).await.unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("secret"), "{url}: {error}");
        }
        assert!(networks(&["10.0.0.0/33".to_owned()]).is_err());
        assert_eq!(networks(&["::1".to_owned()]).unwrap()[0].to_string(), "::1/128");
    }
}
