//! The console: the page at `/` and its parts, embedded in the binary. No build step, no other host.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tower_http::set_header::SetResponseHeaderLayer;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, media type and bytes of each part.
const PARTS: &[(&str, &str, &[u8])] = &[
    ("/", HTML, include_bytes!("console/index.html")),
    ("/console/console.css", CSS, include_bytes!("console/console.css")),
    ("/console/console.js", SCRIPT, include_bytes!("console/console.js")),
    ("/console/api.js", SCRIPT, include_bytes!("console/api.js")),
    ("/console/cohorts.js", SCRIPT, include_bytes!("console/cohorts.js")),
    ("/console/dom.js", SCRIPT, include_bytes!("console/dom.js")),
    ("/console/shards.js", SCRIPT, include_bytes!("console/shards.js")),
    ("/console/stream.js", SCRIPT, include_bytes!("console/stream.js")),
    ("/console/user.js", SCRIPT, include_bytes!("console/user.js")),
    ("/console/icon.svg", "image/svg+xml", include_bytes!("console/icon.svg")),
    ("/console/vendor/uPlot.iife.min.js", SCRIPT, include_bytes!("console/vendor/uPlot.iife.min.js")),
    ("/console/vendor/uPlot.min.css", CSS, include_bytes!("console/vendor/uPlot.min.css")),
    ("/console/vendor/uPlot-LICENSE", "text/plain; charset=utf-8", include_bytes!("console/vendor/uPlot-LICENSE")),
];

/// Nothing but this host's own files: no inline script or style, no other host, no frame around the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page and its parts. They show no data, so they need no token: the page asks for it.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    PARTS.iter().fold(Router::new(), |router, (path, media, bytes)| {
        router.route(path, get(async || ([(header::CONTENT_TYPE, *media)], *bytes).into_response()))
    })
}

/// Headers for every answer, the API's included: a browser takes nothing here for what it is not.
pub fn guarded<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
        // The binary may be newer on the next visit, and what people are doing belongs in no cache.
        (header::CACHE_CONTROL, "no-store"),
    ]
    .into_iter()
    .fold(router, |router, (name, value)| {
        router.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_only_parts_that_are_there_and_no_other_host() {
        for (path, media, bytes) in PARTS {
            let Ok(text) = std::str::from_utf8(bytes) else { panic!("{path} is no text") };
            if path.contains("/vendor/") {
                continue;
            }
            let quoted = text.split(['"', '\'', '`']).skip(1).step_by(2);
            let is_part = |word: &&str| matches!(word.rsplit_once('.'), Some((_, "js" | "css")));
            for reference in quoted.filter(is_part) {
                let wanted = reference
                    .strip_prefix("./")
                    .map_or_else(|| format!("/{reference}"), |file| format!("/console/{file}"));
                assert!(PARTS.iter().any(|(path, ..)| *path == wanted), "{path} ({media}) names {wanted}");
            }
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{path} names another host");
            assert!(!text.contains(" style=\""), "{path}: the policy forbids inline styles");
        }
    }
}
