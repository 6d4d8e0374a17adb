//! `ektola migrate`: brings the database up to date.

use infrastructure::postgres::{self, MigrateError};
use serde::Serialize;

use super::context::Context;
use super::error::Failure;
use super::installation::Server;
use super::schema::SchemaState;

#[derive(Serialize)]
struct Answer {
    /// How many migrations were applied now.
    applied: usize,
    /// How many there are.
    migrations: usize,
}

pub async fn run(context: &Context) -> anyhow::Result<()> {
    let answer = context.on_server(async |server: &Server| migrate(server).await).await?;
    context.out.answer(&answer, |_| match answer.applied {
        0 => format!("The database is current: {} migrations.", answer.migrations),
        applied => format!("Applied {applied} of {} migrations; the database is current.", answer.migrations),
    })
}

async fn migrate(server: &Server) -> anyhow::Result<Answer> {
    let before = SchemaState::read(&mut server.connect().await?).await?;
    let applied = match before {
        SchemaState::Current { .. } => 0,
        SchemaState::Missing { migrations } => migrations,
        SchemaState::Newer { .. } | SchemaState::Changed { .. } => {
            before.check("")?;
            0
        }
    };
    postgres::migrate(&server.url).await.map_err(|error| {
        let next = match error {
            MigrateError::Connect(_) => "check that the server runs; ektola doctor says more",
            MigrateError::Migrate(_) => {
                "if the cause is a permission, as a superuser: ALTER ROLE the login role CREATEROLE, and make it the \
                 owner of the database"
            }
        };
        Failure::new("the database could not be brought up to date").because(error).next(next)
    })?;
    match SchemaState::read(&mut server.connect().await?).await? {
        SchemaState::Current { migrations } => Ok(Answer { applied, migrations }),
        _ => Err(Failure::new("the database is not current after its migrations").into()),
    }
}
