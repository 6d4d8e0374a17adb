//! The tables of a generation. They take their form from the live ones, so a migration that changes a read model says
//! so once: columns, defaults, checks and primary keys at the beginning, other indexes when the rows are there.

use sqlx::{Connection, Executor, PgConnection};

use crate::generation::{Generation, GenerationState, LIVE_SCHEMA, find};
use crate::projection::Projection;

/// For sorting an index; the server's default is meant for many at once.
const INDEX_MEMORY: &str = "SET LOCAL maintenance_work_mem = '256MB'";

/// Makes the next generation, empty, and its checkpoint.
pub(super) async fn create_generation(
    owner: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<Generation, sqlx::Error> {
    let name = projection.name();
    let mut tx = owner.begin().await?;
    let number = sqlx::query_scalar!(
        r#"SELECT coalesce(max(generation), 0) + 1 AS "number!" FROM projection_builds WHERE projection = $1"#,
        name
    )
    .fetch_one(&mut *tx)
    .await?;
    // A number is not taken again after its generation was dropped: a follower of that one may still be on its way.
    let schema = format!("{LIVE_SCHEMA}_{name}_{number}");
    let subscription = format!("generation:{name}:{number}:{}", short_id(&mut tx).await?);
    tx.execute(format!("DROP SCHEMA IF EXISTS {schema} CASCADE").as_str()).await?;
    tx.execute(format!("CREATE SCHEMA {schema}").as_str()).await?;
    tx.execute(format!("GRANT USAGE ON SCHEMA {schema} TO ektola_engine").as_str()).await?;
    for table in projection.tables() {
        create_table(&mut tx, &schema, table).await?;
    }
    sqlx::query!(
        "INSERT INTO projection_builds (projection, generation, version, schema_name, subscription, state)
         VALUES ($1, $2, $3, $4, $5, 'building')",
        name,
        number,
        i32::try_from(projection.version()).unwrap_or(i32::MAX),
        schema,
        subscription,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("INSERT INTO subscriptions (name) VALUES ($1)", subscription).execute(&mut *tx).await?;
    tx.commit().await?;
    find(owner, name, GenerationState::Building).await?.ok_or(sqlx::Error::RowNotFound)
}

/// A checkpoint's name is never used twice, so that a follower of a dropped generation finds nothing.
async fn short_id(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT left(md5(gen_random_uuid()::text), 8) AS "id!""#).fetch_one(connection).await
}

async fn create_table(connection: &mut PgConnection, schema: &str, table: &str) -> Result<(), sqlx::Error> {
    let like = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION \
                INCLUDING COMMENTS";
    connection.execute(format!("CREATE TABLE {schema}.{table} (LIKE {LIVE_SCHEMA}.{table} {like})").as_str()).await?;
    let live = sqlx::query!(
        r#"SELECT array_to_string(c.reloptions, ', ') AS options, k.conname AS "key!",
                  pg_get_constraintdef(k.oid) AS "definition!"
           FROM pg_class c JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
           WHERE c.relnamespace = $1::text::regnamespace AND c.relname = $2"#,
        LIVE_SCHEMA,
        table,
    )
    .fetch_one(&mut *connection)
    .await?;
    if let Some(options) = live.options {
        connection.execute(format!("ALTER TABLE {schema}.{table} SET ({options})").as_str()).await?;
    }
    // The key finds the rows that later events change.
    let key = format!("ALTER TABLE {schema}.{table} ADD CONSTRAINT {} {}", live.key, live.definition);
    connection.execute(key.as_str()).await?;
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {schema}.{table} TO ektola_engine");
    connection.execute(grant.as_str()).await?;
    Ok(())
}

/// Makes the indexes that are missing, and lets the planner know the rows.
pub(super) async fn complete(
    owner: &mut PgConnection,
    projection: &dyn Projection,
    schema: &str,
    gives_way: bool,
) -> Result<(), sqlx::Error> {
    for table in projection.tables() {
        let missing = sqlx::query_scalar!(
            r#"SELECT pg_get_indexdef(i.indexrelid) AS "definition!"
               FROM pg_index i
               JOIN pg_class c ON c.oid = i.indrelid
               JOIN pg_class x ON x.oid = i.indexrelid
               WHERE c.relnamespace = $1::text::regnamespace AND c.relname = $3
                 AND NOT EXISTS (
                     SELECT FROM pg_class o
                     WHERE o.relnamespace = $2::text::regnamespace AND o.relname = x.relname AND o.relkind = 'i')
               ORDER BY x.relname"#,
            LIVE_SCHEMA,
            schema,
            table,
        )
        .fetch_all(&mut *owner)
        .await?;
        for definition in missing {
            let here = format!(" ON {LIVE_SCHEMA}.{table} ");
            let there = format!(" ON {schema}.{table} ");
            let mut tx = owner.begin().await?;
            tx.execute(INDEX_MEMORY).await?;
            if gives_way {
                // One core is left to the engine.
                tx.execute("SET LOCAL max_parallel_maintenance_workers = 0").await?;
            }
            tx.execute(definition.replacen(&here, &there, 1).as_str()).await?;
            tx.commit().await?;
        }
        owner.execute(format!("ANALYZE {schema}.{table}").as_str()).await?;
    }
    Ok(())
}

/// Drops a generation with everything that belongs to it. It must not be the live one.
pub(super) async fn drop_generation(owner: &mut PgConnection, generation: &Generation) -> Result<(), sqlx::Error> {
    let mut tx = owner.begin().await?;
    // The checkpoint first: a follower that is at work ends before the tables go, and none begins again.
    sqlx::query!("DELETE FROM subscriptions WHERE name = $1", generation.subscription).execute(&mut *tx).await?;
    let dropped = sqlx::query!(
        "DELETE FROM projection_builds WHERE projection = $1 AND generation = $2 AND state <> 'live'",
        generation.projection,
        generation.number,
    )
    .execute(&mut *tx)
    .await?;
    if dropped.rows_affected() == 1 {
        tx.execute(format!("DROP SCHEMA {} CASCADE", generation.schema).as_str()).await?;
    }
    tx.commit().await
}
