//! By which names this server may be called.
//!
//! A page of another site can let its own name point at 127.0.0.1, and a browser then takes this server for that site:
//! neither the same-origin policy nor a loopback address protects what it would read (DNS rebinding). Such a request still
//! says the foreign name in `Host`. So a server that is bound to a loopback address answers only to `localhost`, to an
//! address, or to the host of `http.advertised`. One that others are meant to reach cannot know its names; it has the token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::http::problem::Problem;

/// The names that are answered to.
#[derive(Clone, Debug)]
pub enum Names {
    /// Every name: the address is no loopback address.
    Any,
    /// Addresses, `localhost` and what is below it, and this one.
    Local(Option<Arc<str>>),
}

impl Names {
    /// Those of a server that listens at `address` and says of itself that it is at the URL `advertised`.
    #[must_use]
    pub fn of(address: SocketAddr, advertised: Option<&str>) -> Self {
        if !address.ip().is_loopback() {
            return Self::Any;
        }
        let host = advertised.and_then(|url| url.parse::<Uri>().ok()).and_then(|uri| Some(plain(uri.host()?)));
        Self::Local(host.map(Arc::from))
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Self::Local(advertised) = self else { return Ok(()) };
        // Without the header it is no browser: HTTP/1.0 of a health check.
        for value in headers.get_all(header::HOST) {
            let authority = value.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
            let host = authority.map(|authority| plain(authority.host()));
            if !host.as_deref().is_some_and(|host| is_local(host) || advertised.as_deref() == Some(host)) {
                return Err(Problem::foreign_host());
            }
        }
        Ok(())
    }
}

/// Lower case, without the brackets of an address and the dot of a full name.
fn plain(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// An address is no name that somebody could point elsewhere; `localhost` is resolved without asking anybody.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok()
}

/// The middleware of every route.
///
/// # Errors
/// The request calls this server by a name that is not its own.
pub async fn require(State(names): State<Names>, request: Request, next: Next) -> Result<Response, Problem> {
    names.check(request.headers())?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn answers(names: &Names, host: &str) -> bool {
        let value = HeaderValue::from_str(host).expect("a header");
        names.check(&HeaderMap::from_iter([(header::HOST, value)])).is_ok()
    }

    #[test]
    fn a_server_on_loopback_answers_to_its_own_names_alone() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 8080));
        let names = Names::of(loopback, Some("https://Tide.example.org/ebbtide"));
        for host in [
            "localhost:8080",
            "LOCALHOST",
            "a.localhost:1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "10.1.2.3",
            "tide.example.org",
            "tide.example.org.:443",
        ] {
            assert!(answers(&names, host), "{host}");
        }
        for host in [
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "tide.example.org.evil",
            "a b",
            "evil.example, localhost",
        ] {
            assert!(!answers(&names, host), "{host}");
        }
        assert!(names.check(&HeaderMap::new()).is_ok(), "HTTP/1.0 needs no host");
        assert!(!answers(&Names::of(loopback, None), "tide.example.org"));
    }

    #[test]
    fn one_of_two_hosts_is_enough_to_refuse() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(Names::Local(None).check(&headers).is_err());
    }

    #[test]
    fn a_server_for_others_answers_to_every_name() {
        assert!(answers(&Names::of(SocketAddr::from(([0, 0, 0, 0], 8080)), None), "ebbtide-0.ebbtide:8080"));
    }
}
