//! Is the database's schema the one that this program was built for?

use std::collections::BTreeMap;

use infrastructure::postgres::MIGRATOR;
use sqlx::PgConnection;
use sqlx::migrate::{Migrate, MigrateError, Migration, Migrator};

use super::error::Failure;

/// Postgres' code for a table that does not exist.
const UNDEFINED_TABLE: &str = "42P01";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    Current {
        migrations: usize,
    },
    /// Older than the program.
    Missing {
        migrations: usize,
    },
    /// Newer than the program.
    Newer {
        version: i64,
    },
    /// A migration that was applied is not the one that the program knows by this number.
    Changed {
        version: i64,
    },
}

impl SchemaState {
    /// Reads it; the connection must be the owner's, for the engine's role may not see what was applied.
    pub async fn read(connection: &mut PgConnection) -> Result<Self, MigrateError> {
        let applied = match connection.list_applied_migrations().await {
            Ok(applied) => applied,
            Err(MigrateError::Execute(sqlx::Error::Database(error)))
                if error.code().as_deref() == Some(UNDEFINED_TABLE) =>
            {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        if let Some(version) = connection_is_torn(connection, !applied.is_empty()).await? {
            return Ok(Self::Changed { version });
        }
        let applied =
            applied.into_iter().map(|migration| (migration.version, migration.checksum.into_owned())).collect();
        Ok(Self::of(&MIGRATOR, &applied))
    }

    fn of(known: &Migrator, applied: &BTreeMap<i64, Vec<u8>>) -> Self {
        let known: BTreeMap<i64, &Migration> = known.iter().map(|migration| (migration.version, migration)).collect();
        for (version, checksum) in applied {
            match known.get(version) {
                None => return Self::Newer { version: *version },
                Some(migration) if *migration.checksum != **checksum => return Self::Changed { version: *version },
                Some(_) => {}
            }
        }
        match known.len() - applied.len() {
            0 => Self::Current { migrations: known.len() },
            migrations => Self::Missing { migrations },
        }
    }

    /// Why no subcommand may work on it, if none may.
    pub fn check(self, call: &str) -> Result<(), Failure> {
        match self {
            Self::Current { .. } => Ok(()),
            Self::Missing { migrations } => {
                Err(Failure::new(format!("the database lacks {migrations} of this program's migrations")).next(call))
            }
            Self::Newer { version } => {
                Err(Failure::new(format!("the database has migration {version}, which this program does not know"))
                    .next("use the newer release of ektola that made it"))
            }
            Self::Changed { version } => {
                Err(Failure::new(format!("migration {version} of the database is not the one that this program knows"))
                    .next("use the release of ektola that made it, or restore a backup"))
            }
        }
    }
}

/// The version of a migration that was begun and never completed.
async fn connection_is_torn(connection: &mut PgConnection, any: bool) -> Result<Option<i64>, MigrateError> {
    // Without the table the question would be an error.
    if any { connection.dirty_version().await } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> BTreeMap<i64, Vec<u8>> {
        MIGRATOR.iter().map(|migration| (migration.version, migration.checksum.to_vec())).collect()
    }

    #[test]
    fn what_was_applied_is_compared_with_what_is_known() {
        let count = MIGRATOR.iter().count();
        assert_eq!(SchemaState::of(&MIGRATOR, &all()), SchemaState::Current { migrations: count });
        assert_eq!(SchemaState::of(&MIGRATOR, &BTreeMap::new()), SchemaState::Missing { migrations: count });

        let mut newer = all();
        newer.insert(i64::MAX, Vec::new());
        assert_eq!(SchemaState::of(&MIGRATOR, &newer), SchemaState::Newer { version: i64::MAX });

        let mut changed = all();
        let (version, checksum) = changed.iter_mut().next_back().unwrap();
        let version = *version;
        checksum[0] ^= 1;
        assert_eq!(SchemaState::of(&MIGRATOR, &changed), SchemaState::Changed { version });
    }

    #[test]
    fn only_a_current_schema_passes() {
        assert!(SchemaState::Current { migrations: 5 }.check("").is_ok());
        let refused = SchemaState::Missing { migrations: 1 }.check("ektola migrate").unwrap_err();
        assert_eq!(super::super::error::next_step(&refused.into()), Some("ektola migrate"));
        assert!(SchemaState::Newer { version: 9 }.check("").is_err());
        assert!(SchemaState::Changed { version: 1 }.check("").is_err());
    }
}
