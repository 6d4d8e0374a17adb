use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use uuid::Uuid;

use super::problem::{Problem, ProblemKind};
use super::state::ApiState;

const ID_LENGTH: usize = 36;

/// The id in a path. What has not the form of an id names nothing, so it is not found.
pub(super) struct IdPath(pub(super) Uuid);

impl FromRequestParts<ApiState> for IdPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let Path(text): Path<String> = Path::from_request_parts(parts, state).await?;
        parse_id(&text)
            .map(Self)
            .ok_or_else(|| Problem::new(ProblemKind::NotFound, "The path holds something that is not an id."))
    }
}

/// Ids are written in one way only, the one in which they are given out.
pub(super) fn parse_id(text: &str) -> Option<Uuid> {
    if text.len() == ID_LENGTH { Uuid::try_parse(text).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usual_form_is_an_id() {
        let id = "0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";
        assert_eq!(parse_id(id).map(|id| id.to_string()).as_deref(), Some(id));
        for text in ["", "7", "0199a1b2c3d47e5f8a9b0c1d2e3f4a5b", "{0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b}"] {
            assert_eq!(parse_id(text), None, "{text}");
        }
    }
}
