//! How much is taken in at once: a rate for each address, a cap on requests in hand, a time limit.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::HeaderMap,
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::{Config, metrics::names};

/// How often addresses that went quiet are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(30);

/// The limits of the process.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    by_address: Option<Arc<DefaultKeyedRateLimiter<IpAddr>>>,
    in_hand: Arc<Semaphore>,
    trust_forwarded_for: bool,
    timeout: Duration,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        let by_address = NonZeroU32::new(config.requests_per_second_per_address).map(|rate| {
            let burst = NonZeroU32::new(config.request_burst_per_address).unwrap_or(rate);
            Arc::new(RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)))
        });
        Self {
            by_address,
            in_hand: Arc::new(Semaphore::new(
                config.max_concurrent_requests.clamp(1, Semaphore::MAX_PERMITS),
            )),
            trust_forwarded_for: config.trust_forwarded_for,
            timeout: config.request_timeout(),
        }
    }

    /// Forgets addresses that went quiet, until `stop`; else a scan over addresses would fill memory.
    pub(crate) async fn forget(self, stop: CancellationToken) {
        let Some(by_address) = self.by_address else { return };
        while stop.run_until_cancelled(tokio::time::sleep(FORGET_EVERY)).await.is_some() {
            by_address.retain_recent();
            by_address.shrink_to_fit();
        }
    }

    fn check_address(&self, request: &Request) -> Result<(), Problem> {
        let (Some(limiter), Some(address)) = (&self.by_address, self.address(request)) else { return Ok(()) };
        limiter.check_key(&address).map_err(|until| {
            metrics::counter!(names::REJECTIONS, "reason" => "address_rate").increment(1);
            Problem::too_many_requests(until.wait_time_from(DefaultClock::default().now()).as_secs() + 1)
        })
    }

    fn address(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let forwarded = self.trust_forwarded_for.then(|| forwarded_for(request.headers())).flatten();
        forwarded.or(peer).map(network)
    }
}

/// The address that the nearest proxy saw.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next()?.trim().parse().ok()
}

/// One customer has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Refuses what is over a limit, before the key is looked at.
pub(crate) async fn admit(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    if let Err(problem) = limits.check_address(&request) {
        return problem.into_response();
    }
    let Ok(_permit) = limits.in_hand.try_acquire() else {
        metrics::counter!(names::REJECTIONS, "reason" => "concurrency").increment(1);
        return Problem::unavailable("too many requests are in hand").into_response();
    };
    next.run(request).await
}

/// Ends a request that takes too long. Not for those that carry a file: they may take as long as
/// bytes keep coming.
pub(crate) async fn time_limit(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limits.timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timed_out().into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_choose_its_address() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "6.6.6.6, 10.1.2.3".parse().unwrap_or_else(|_| unreachable!()));
        assert_eq!(forwarded_for(&headers), "10.1.2.3".parse().ok());
        let request = Request::builder().header("x-forwarded-for", "6.6.6.6").body(axum::body::Body::empty());
        let limits = Limits::new(&Config::default());
        assert_eq!(
            request.ok().and_then(|request| limits.address(&request)),
            None,
            "the header is not trusted by default"
        );
    }

    #[test]
    fn addresses_of_one_customer_share_a_limit() {
        let parse = |text: &str| text.parse().ok().map(network);
        assert_eq!(parse("2001:db8:1:2::1"), parse("2001:db8:1:2:ffff::2"));
        assert_ne!(parse("2001:db8:1:2::1"), parse("2001:db8:1:3::1"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
    }
}
