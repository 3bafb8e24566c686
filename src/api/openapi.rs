//! The description of this API (OpenAPI 3.1), made from its handlers and types, and the pages that show it.

use axum::Router;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::ApiState;
use super::error::ErrorBody;

/// What the description says of the API as a whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Maskline",
        description = "Number masking in the manner of Plivo's API. Paths may end in a slash. Every answer has an \
                       `api_id`; errors are `{\"api_id\": …, \"error\": …}`. Requests are described in their strict \
                       form and read leniently, because SDKs differ: names in any case, numbers and booleans from \
                       strings too, and null, `\"\"` and 0 for a duration as \"not given\"."
    ),
    components(schemas(ErrorBody)),
    modifiers(&Credentials),
    security(("credentials" = [])),
    tags(
        (name = "Masking", description = "Masking sessions"),
        (name = "Call", description = "Legs of calls, live and ended"),
        (name = "Recording", description = "Recorded calls and their sound"),
        (name = "Accounts", description = "Credentials: accounts and sub-accounts"),
        (name = "Numbers", description = "Virtual numbers"),
        (name = "Events", description = "What callbacks tell, and telling it again"),
        (name = "Operation", description = "For the operator, without credentials")
    )
)]
struct Description;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut basic = Http::new(HttpAuthScheme::Basic);
        basic.description = Some("The auth id as user name, its auth token as password.".to_owned());
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("credentials", SecurityScheme::Http(basic));
    }
}

/// A router that describes what is merged into it.
pub(super) fn described() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Description::openapi())
}

/// `/openapi.json`, and `/docs/` to browse it; nothing of it comes from elsewhere.
pub(super) fn pages(description: utoipa::openapi::OpenApi) -> Router<ApiState> {
    // Without this the page would send the description to a public validator.
    let config = Config::from("/openapi.json").validator_url("none");
    SwaggerUi::new("/docs").url("/openapi.json", description).config(config).into()
}
