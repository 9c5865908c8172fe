//! `/openapi.json`: the API's description, made from the routes' own types.

use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::http::{cohorts, counts, export, health, live, reports, shards, users, win_back};

/// The whole description.
#[derive(OpenApi)]
#[openapi(
    info(title = "Ebbtide", description = "Lifecycle states of users, live. Cohorts, users, segments, win-back, retention and signals are those of the whole group, whichever instance is asked; exports, history, flows, transitions and shards are those of the instance."),
    paths(
        cohorts::now, cohorts::shards, cohorts::history, cohorts::flows, users::show, users::delete, live::stream, shards::list, counts::shards,
        reports::list, reports::retention, reports::signals, export::segment, export::state,
        win_back::segments, win_back::returns, health::alive, health::ready, health::metrics,
    ),
    tags(
        (name = "cohorts", description = "How many are in which state, and who moved"),
        (name = "win-back", description = "Segments, returns, and what campaigns added"),
        (name = "users", description = "One user"),
        (name = "exports", description = "Audiences as files"),
        (name = "reports", description = "Retention, and what came before"),
        (name = "transitions", description = "Changes of state as they happen"),
        (name = "operations", description = "For machines and the on-call"),
    ),
    security(("token" = [])),
    modifiers(&Token),
)]
struct Description;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut Document) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The description as a value; it serialises to JSON.
#[must_use]
pub fn document() -> Document {
    Description::openapi()
}
