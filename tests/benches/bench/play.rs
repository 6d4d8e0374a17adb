//! One step of many messages in bulk: a handful of callers that each give hundreds of commands at once.

use anyhow::{Result, ensure};
use infrastructure::event_store::{Addressed, Attachment, MessageStore};
use tokio::task::JoinSet;

use crate::life::{Messages, Step};

const CALLERS: u32 = 8;
/// The writers share them out over their batches.
const GIVEN_AT_ONCE: u32 = 1000;

/// Takes this step for the first so many messages; each may have an attachment, by its number.
pub(crate) async fn play(
    store: &MessageStore,
    messages: &Messages,
    count: u32,
    step: Step,
    attachment: impl Fn(u32) -> Option<Attachment> + Copy + Send + 'static,
) -> Result<()> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (store, messages) = (store.clone(), messages.clone());
        callers.spawn(async move {
            for first in (caller * GIVEN_AT_ONCE..count).step_by(usize::try_from(CALLERS * GIVEN_AT_ONCE)?) {
                let numbers = first..count.min(first + GIVEN_AT_ONCE);
                let commands = numbers.map(|number| {
                    let envelope = messages.envelope(number, step);
                    let mut command = Addressed::new(messages.message(number), envelope, Messages::actor());
                    command.attachment = attachment(number);
                    command
                });
                for answer in store.execute_many(commands.collect()).await {
                    ensure!(answer?.events.len() == 1, "a command appended nothing");
                }
            }
            Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(())
}
