//! Lives of many messages in bulk: a handful of callers that each give hundreds of commands at once.
//!
//! Step by step over all messages: when a message's next step comes, the ones before it have long been committed, so
//! that every command has to load its aggregate from Postgres.

use anyhow::Result;
use tokio::time::Instant;

use super::check_count;
use crate::life::{Messages, STEPS};
use crate::own_store::{OwnStore, connect};
use crate::play::play;
use crate::site::Site;
use crate::statistics::as_float;

/// Commands per second.
pub(super) async fn measure(site: &Site, count: u32) -> Result<f64> {
    let database = site.database().await?;
    site.checkpoint().await?;
    let pool = connect(&database).await?;
    let own = OwnStore::start(&pool);
    let messages = Messages::of_strangers();
    let began = Instant::now();
    for step in STEPS {
        // Without erasable rows: the stock path and the bare INSERT write none.
        play(&own.messages, &messages, count, step, |_| None).await?;
    }
    let took = began.elapsed().as_secs_f64();
    own.stop().await;
    let commands = f64::from(count) * as_float(STEPS.len());
    check_count(&pool, commands).await?;
    pool.close().await;
    site.drop_database(database).await?;
    Ok(commands / took)
}
