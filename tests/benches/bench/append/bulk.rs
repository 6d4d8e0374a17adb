//! Lives of many messages in bulk: a handful of callers that each give hundreds of commands at once.
//!
//! Step by step over all messages: when a message's next step comes, the ones before it have long been committed, so
//! that every command has to load its aggregate from Postgres.

use anyhow::{Result, ensure};
use infrastructure::clock::Clock;
use infrastructure::seals::{SealKey, Sealer, SealerConfig, last_seal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::check_count;
use crate::life::{Messages, STEPS};
use crate::own_store::{OwnStore, connect};
use crate::play::play;
use crate::site::Site;
use crate::statistics::as_float;

/// Does a sealer follow the log meanwhile, as configured by default?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealing {
    Off,
    On,
}

/// Commands per second.
pub(crate) async fn measure(site: &Site, count: u32, sealing: Sealing) -> Result<f64> {
    let database = site.database().await?;
    site.checkpoint().await?;
    let pool = connect(&database).await?;
    let own = OwnStore::start(&pool);
    let messages = Messages::of_strangers();
    let stop = CancellationToken::new();
    let audit = api::config::load(None, std::iter::empty())?.audit;
    let config = SealerConfig { every: audit.seal_every(), segment_max: audit.segment_events_max };
    let sealer = Sealer { pool: pool.clone(), clock: Clock::system(), key: SealKey::generate()?, config };
    let sealer = (sealing == Sealing::On).then(|| tokio::spawn(sealer.run(stop.clone())));
    let began = Instant::now();
    for step in STEPS {
        // Without erasable rows: the stock path and the bare INSERT write none.
        play(&own.messages, &messages, count, step, |_| None).await?;
    }
    let took = began.elapsed().as_secs_f64();
    stop.cancel();
    if let Some(sealer) = sealer {
        sealer.await?;
        ensure!(last_seal(&pool).await?.is_some(), "nothing was sealed, so nothing was measured");
    }
    own.stop().await;
    let commands = f64::from(count) * as_float(STEPS.len());
    check_count(&pool, commands).await?;
    pool.close().await;
    site.drop_database(database).await?;
    Ok(commands / took)
}
