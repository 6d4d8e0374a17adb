//! One caller with nobody beside it: how long a command takes on either path, taking turns in one database.

use anyhow::Result;
use tokio::time::Instant;

use super::callers::WritePath;
use super::connect_plainly;
use crate::life::{Messages, STEPS};
use crate::own_store::{OwnStore, connect};
use crate::site::Site;
use crate::statistics::median;

/// Five commands each on each path.
const MESSAGES: u32 = 200;
/// Connections are made and statements prepared.
const WARM_UP_MESSAGES: u32 = 10;

pub(super) struct Lone {
    pub(super) ours_ms: f64,
    pub(super) stock_ms: f64,
    pub(super) commands_each: usize,
}

pub(super) async fn measure(site: &Site) -> Result<Lone> {
    let database = site.database().await?;
    site.checkpoint().await?;
    let pool = connect(&database).await?;
    let own = OwnStore::start(&pool);
    let plain = connect_plainly(&database).await?;
    let (ours, stock) = (WritePath::Ours(own.messages.clone()), WritePath::stock(&plain));
    let (for_ours, for_stock) = (Messages::of_strangers(), Messages::of_strangers());
    let (mut ours_ms, mut stock_ms) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP_MESSAGES + site.scaled(MESSAGES) {
        for step in STEPS {
            // The one that comes first may profit or suffer from it, so that changes too.
            let mut turns = [(&ours, &for_ours, &mut ours_ms), (&stock, &for_stock, &mut stock_ms)];
            if number % 2 == 1 {
                turns.reverse();
            }
            for (path, messages, times) in turns {
                let began = Instant::now();
                path.execute(messages, number, step).await?;
                if number >= WARM_UP_MESSAGES {
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
    }
    own.stop().await;
    pool.close().await;
    plain.close().await;
    site.drop_database(database).await?;
    Ok(Lone { ours_ms: median(&ours_ms), stock_ms: median(&stock_ms), commands_each: ours_ms.len() })
}
