//! Errors as the API says them: problem details (RFC 9457), `application/problem+json`.
//!
//! A problem tells what failed, on what, and what to do; never an inner error's text with paths or addresses.

use axum::Json;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

/// One problem (RFC 9457 section 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Which kind of problem this is: a reference relative to the API, stable, for machines.
    #[serde(rename = "type")]
    #[schema(example = "/problems/unknown-user")]
    pub kind: &'static str,
    /// The kind in a few words, for people.
    #[schema(example = "Unknown user")]
    pub title: &'static str,
    /// The HTTP status.
    #[schema(example = 404)]
    pub status: u16,
    /// This occurrence, and what to do.
    pub detail: String,
    /// Input partitions whose shards could not be asked; only where that is the problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<i32>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, title, status: status.as_u16(), detail: detail.into(), missing: Vec::new() }
    }

    /// 400: the query or the path does not say what it must.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "/problems/bad-request", "Bad request", detail)
    }

    /// 401: no token, or a wrong one.
    #[must_use]
    pub fn unauthorized() -> Self {
        let detail = "send the token of http.token as `Authorization: Bearer …`";
        Self::new(StatusCode::UNAUTHORIZED, "/problems/unauthorized", "Token required", detail)
    }

    /// 403: a page of another site asked.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "/problems/forbidden", "Not allowed", detail)
    }

    /// 404: there is no such route.
    #[must_use]
    pub fn no_route(path: &str) -> Self {
        let detail = format!("there is nothing at {path}; /openapi.json lists what there is");
        Self::new(StatusCode::NOT_FOUND, "/problems/no-route", "No such route", detail)
    }

    /// 404: every shard was asked, and none knows the user.
    pub fn unknown_user(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "/problems/unknown-user", "Unknown user", detail)
    }

    /// 404: nothing of this name is configured.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "/problems/unknown-name", "Unknown name", detail)
    }

    /// 405: the route is there, the method is not.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let detail = "the route does not take this method; /openapi.json lists what it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "/problems/method-not-allowed", "Method not allowed", detail)
    }

    /// 408: the answer took too long.
    #[must_use]
    pub fn timed_out() -> Self {
        let detail = "the answer took too long; the disk may be slow or the instance overloaded: try again";
        Self::new(StatusCode::REQUEST_TIMEOUT, "/problems/timed-out", "Timed out", detail)
    }

    /// 413: the body is larger than any that is expected.
    #[must_use]
    pub fn too_large() -> Self {
        let detail = "no route takes a body of this size";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "/problems/too-large", "Too large", detail)
    }

    /// 421: another instance owns the user.
    pub fn elsewhere(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "/problems/another-instance",
            "Another instance owns the user",
            detail,
        )
    }

    /// 421: the request calls this server by a name that is not its own.
    #[must_use]
    pub fn foreign_host() -> Self {
        let detail = "bound to a loopback address, this server answers to localhost, to an address, and to the host of \
                      http.advertised; name it so, or set http.advertised to the URL that you use";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "/problems/foreign-host", "Not this server's name", detail)
    }

    /// 500: our fault, or the disk's.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "/problems/internal", "Internal error", detail)
    }

    /// 503: nobody who answered knows the user, and not everybody answered.
    pub fn partial(detail: impl Into<String>, missing: Vec<i32>) -> Self {
        let problem =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/partial", "Some shards could not be asked", detail);
        Self { missing, ..problem }
    }

    /// 503: not now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "Not available now", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"ebbtide\""));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// Query parameters; what does not parse is a [`Problem`] instead of plain text.
#[derive(Clone, Copy, Debug)]
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let parsed = Query::try_from_uri(&parts.uri).map(|Query(value)| Self(value));
        parsed.map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}
