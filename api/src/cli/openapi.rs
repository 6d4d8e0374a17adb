//! `ektola openapi`: the description of the HTTP interface, for tools that generate clients.

use super::context::Context;
use crate::http;

pub fn run(context: &Context) -> anyhow::Result<()> {
    context.out.document(&http::openapi())
}
