use std::collections::BTreeMap;

use domain::aggregate::Position;
use projections::generation::{self, GenerationState};
use projections::status::read::subscriptions;
use projections::{parking, registry};
use serde::Serialize;

use super::super::context::Context;
use super::super::installation::Installation;
use super::super::output::{Align, Table, count};

#[derive(Serialize)]
struct GenerationAnswer {
    name: String,
    generation: i32,
    state: GenerationState,
    /// The version of the projection that folded the rows.
    version: i32,
    /// The version that this release folds; another one means that a rebuild is due.
    wanted_version: u32,
    /// Everything at or below this position is in it.
    position: Position,
    /// Positions up to the end of the log.
    lag: Position,
    /// How long the first event behind it has waited, in seconds.
    lag_seconds: f64,
    /// Aggregates whose events it could not take in.
    parked: usize,
}

impl GenerationAnswer {
    fn note(&self) -> String {
        let other_version = u32::try_from(self.version).ok() != Some(self.wanted_version);
        match self.state {
            GenerationState::Live if other_version => format!("version {} is due: rebuild", self.wanted_version),
            GenerationState::Live if self.parked > 0 => "see projections parked".to_owned(),
            GenerationState::Live => String::new(),
            GenerationState::Ready => "projections switch makes it live".to_owned(),
            GenerationState::Previous => "projections switch-back makes it live again".to_owned(),
            GenerationState::Building => "projections rebuild goes on with it".to_owned(),
        }
    }
}

pub(super) async fn list(context: &Context) -> anyhow::Result<()> {
    let answer = context.on_installation(async |installation: &Installation| read(installation).await).await?;
    context.out.answer(&answer, |out| {
        let mut table = Table::new([
            ("name", Align::Left),
            ("state", Align::Left),
            ("version", Align::Right),
            ("position", Align::Right),
            ("lag (events)", Align::Right),
            ("lag (s)", Align::Right),
            ("parked", Align::Right),
            ("next", Align::Left),
        ]);
        for row in &answer {
            table.row([
                row.name.clone(),
                row.state.name().to_owned(),
                count(row.version),
                count(row.position),
                count(row.lag),
                format!("{:.1}", row.lag_seconds),
                row.parked.to_string(),
                row.note(),
            ]);
        }
        out.table(&table)
    })
}

async fn read(installation: &Installation) -> anyhow::Result<Vec<GenerationAnswer>> {
    let pool = &installation.pool;
    generation::register_all(pool).await?;
    let (_, lags) = subscriptions(pool).await?;
    let mut parked: BTreeMap<(String, i32), usize> = BTreeMap::new();
    for row in parking::list(pool, None).await? {
        *parked.entry((row.projection, row.generation)).or_default() += 1;
    }
    let wanted: BTreeMap<&str, u32> =
        registry::all().iter().map(|projection| (projection.name(), projection.version())).collect();
    let answers = generation::list(pool, None).await?.into_iter().filter_map(|generation| {
        // A projection that this release does not have any more is not shown.
        let wanted_version = *wanted.get(generation.projection.as_str())?;
        let lag = lags.iter().find(|row| row.name == generation.subscription);
        Some(GenerationAnswer {
            wanted_version,
            state: generation.state,
            version: generation.version,
            position: generation.position,
            lag: lag.map_or(0, |row| row.lag),
            lag_seconds: lag.map_or(0.0, |row| row.lag_seconds),
            parked: parked.get(&(generation.projection.clone(), generation.number)).copied().unwrap_or(0),
            generation: generation.number,
            name: generation.projection,
        })
    });
    Ok(answers.collect())
}
