//! Who asks. The tenant comes from the credential and from nowhere else.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use infrastructure::event_store::Actor;
use infrastructure::tenants::{self, Tenant};

use super::problem::{Problem, ProblemKind};
use super::state::ApiState;

/// The holder of a valid token.
pub(super) struct Caller {
    pub(super) tenant: Tenant,
    token_id: String,
}

impl Caller {
    pub(super) fn actor(&self) -> Actor {
        Actor::Token(self.token_id.clone())
    }
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let token = bearer_token(&parts.headers).ok_or_else(|| {
            Problem::new(ProblemKind::Unauthorized, "Send the header Authorization: Bearer, with a token after it.")
        })?;
        let tenant = tenants::authenticate(&state.pool, token).await?;
        let tenant = tenant.ok_or_else(|| {
            Problem::new(
                ProblemKind::Unauthorized,
                "The token is not known, or it was revoked. Make one with ektola token create.",
            )
        })?;
        Ok(Self { tenant, token_id: public_id(token).to_owned() })
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The part of a token that names it and may be shown: `ektola_<id>_<secret>`.
fn public_id(token: &str) -> &str {
    token.split('_').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_bearer_token_is_a_credential() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            bearer_token(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        for other in ["Basic abc", "Bearer", "Bearer ", "abc", ""] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(bearer_token(&HeaderMap::new()), None);
    }

    #[test]
    fn the_public_id_holds_nothing_of_the_secret() {
        assert_eq!(public_id("ektola_00000000000000ff_se_cret"), "00000000000000ff");
    }
}
