//! Who may ask: a bearer token where one is configured, and never a page of another site.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq as _;

use crate::http::problem::Problem;

/// The token, if any.
#[derive(Clone)]
pub struct Guard {
    token: Option<Arc<str>>,
}

impl Guard {
    /// With `None` (or an empty token) everybody who reaches the port may ask.
    #[must_use]
    pub fn new(token: Option<&str>) -> Self {
        Self { token: token.filter(|token| !token.is_empty()).map(Arc::from) }
    }

    fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        // A browser sends other sites' requests too; it says so in a header that scripts cannot set.
        let site = headers.get("sec-fetch-site").map(axum::http::HeaderValue::as_bytes);
        let foreign = !matches!(site, None | Some(b"same-origin" | b"none"));
        if foreign && !method.is_safe() {
            return Err(Problem::forbidden("pages of other sites may not change anything here"));
        }
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], axum::http::HeaderValue::as_bytes);
        let given = match given.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest.trim_ascii(),
            _ => b"",
        };
        // Constant in time for tokens of one length; the length is no secret worth keeping.
        if bool::from(given.ct_eq(token.as_bytes())) { Ok(()) } else { Err(Problem::unauthorized()) }
    }
}

/// The middleware of every route that shows or changes data.
///
/// # Errors
/// No token or a wrong one, or a page of another site.
pub async fn require(State(guard): State<Guard>, request: Request, next: Next) -> Result<Response, Problem> {
    guard.check(request.method(), request.headers())?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn only_the_whole_token_opens() {
        let guard = Guard::new(Some("s3cret"));
        for (value, open) in [
            ("Bearer s3cret", true),
            ("bearer  s3cret ", true),
            ("Bearer s3cre", false),
            ("Bearer s3cretx", false),
            ("Bearer ", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("Bear", false),
        ] {
            assert_eq!(guard.check(&Method::GET, &with("authorization", value)).is_ok(), open, "{value}");
        }
        assert!(guard.check(&Method::GET, &HeaderMap::new()).is_err());
    }

    #[test]
    fn without_a_token_everybody_may_read_and_no_other_site_may_delete() {
        let guard = Guard::new(None);
        assert!(guard.check(&Method::GET, &HeaderMap::new()).is_ok());
        assert!(guard.check(&Method::DELETE, &HeaderMap::new()).is_ok());
        assert!(guard.check(&Method::DELETE, &with("sec-fetch-site", "same-origin")).is_ok());
        assert!(guard.check(&Method::DELETE, &with("sec-fetch-site", "cross-site")).is_err());
        assert!(guard.check(&Method::DELETE, &with("sec-fetch-site", "same-site")).is_err());
    }
}
