//! Sending at 500 messages per second, alone and beside a rebuild that gives way.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::installation::Installation;
use crate::report::{Figures, Target};
use crate::sandbox::Behaviour;
use crate::site::{Database, Site};
use crate::stage::{Queue, Stage};
use crate::table::number;

const RATE_PER_S: u32 = 500;
const MESSAGES: u32 = 10_000;
const PHONE_NUMBER_ID: &str = "100000000000101";
const SEGMENT: &str = "everybody";
const RUN_MAX: Duration = Duration::from_secs(90);

pub(super) async fn measure(
    site: &Site,
    figures: &mut Figures,
    database: &Database,
    installation: &Installation,
) -> Result<()> {
    let messages = site.scaled(MESSAGES);
    installation.contacts(&[SEGMENT], messages).await?;
    // The first is a warm-up that nobody looks at.
    send(site, database, installation, "rebuild: warm-up", false).await?;
    let (alone, _) = send(site, database, installation, "rebuild: sending alone", false).await?;
    let (beside, rebuilt) = send(site, database, installation, "rebuild: sending beside it", true).await?;
    ensure!(rebuilt > 0, "nothing was rebuilt while messages were sent");
    let compared = format!(
        "{} messages at {RATE_PER_S}/s: {alone:.1} s alone, {beside:.1} s while {rebuilt} events were folded",
        number(f64::from(messages)),
    );
    figures.row("rebuild.sending_slowdown", beside / alone - 1.0, "of the time", compared, Some(Target::AtMost(0.2)));
    figures.fact("rebuild.beside_sending.events", rebuilt);
    figures.fact("rebuild.beside_sending.alone_s", alone);
    figures.fact("rebuild.beside_sending.beside_s", beside);
    Ok(())
}

/// Answers the seconds from activation to the last READ, and the events that were folded meanwhile.
async fn send(
    site: &Site,
    database: &Database,
    installation: &Installation,
    what: &str,
    beside: bool,
) -> Result<(f64, i64)> {
    let messages = site.scaled(MESSAGES);
    let installation = installation.in_database(database, &site.new_folder()?);
    let mut stage = Stage::open(site, database, &installation, Queue::Rabbitmq, Behaviour::PLAIN).await?;
    let sender = installation.sender(PHONE_NUMBER_ID, &stage.sandbox.address, RATE_PER_S).await?;
    let template = match stage.engine.get("/v1/templates").await?["items"][0]["id"].as_str() {
        Some(id) => id.to_owned(),
        None => stage.engine.template().await?,
    };
    let campaigns = [stage.engine.campaign(&template, SEGMENT, &sender).await?];
    let mut rebuilt = 0;
    let course = if beside {
        tokio::select! {
            biased;
            course = stage.follow_to_read(site, what, &campaigns, messages, RUN_MAX) => course?,
            ended = rebuild_for_ever(&installation, &mut rebuilt) => {
                ended?;
                bail!("rebuilding does not end by itself");
            }
        }
    } else {
        stage.follow_to_read(site, what, &campaigns, messages, RUN_MAX).await?
    };
    if beside {
        // The rebuild under way was killed with the future that awaited it.
        rebuilt += building(&installation).await?;
    }
    stage.close(site).await?;
    Ok((course.seconds, rebuilt))
}

/// One after the other; ends only by failing.
async fn rebuild_for_ever(installation: &Installation, rebuilt: &mut i64) -> Result<()> {
    loop {
        let answer = installation.run(&["projections", "rebuild", super::ONE]).await?;
        *rebuilt += answer["events"].as_i64().with_context(|| format!("a rebuild says how much it read: {answer}"))?;
    }
}

/// How far the one is that was not finished.
async fn building(installation: &Installation) -> Result<i64> {
    let Value::Array(listed) = installation.run(&["projections", "list"]).await? else {
        bail!("the read models are a list");
    };
    let building = listed.iter().find(|row| row["name"] == super::ONE && row["state"] == "building");
    Ok(building.and_then(|row| row["position"].as_i64()).unwrap_or(0))
}
