//! What the database has to be like.

use infrastructure::senders;
use sqlx::{PgConnection, PgPool};

use super::Check;
use crate::cli::context::Context;
use crate::cli::error::next_step;
use crate::cli::installation::Server;
use crate::cli::output::count;
use crate::cli::schema::SchemaState;

/// The oldest major version that the migrations and queries need.
const VERSION_MIN: i32 = 14;

pub(super) async fn check(server: &Server, context: &Context) -> Vec<Check> {
    let mut owner = match server.connect().await {
        Ok(owner) => owner,
        Err(error) => return vec![Check::from_error("database", &error, "look at the cause above")],
    };
    let mut checks = vec![version(&mut owner, server).await];
    let (migrations, is_current) = migrations(&mut owner, &server.call(context, "migrate")).await;
    checks.push(migrations);
    if !is_current {
        let unknown = "not checked: the migrations come first";
        checks.extend(["durability", "senders"].map(|name| Check::skipped(name, unknown)));
        return checks;
    }
    match server.pool().await {
        Ok(pool) => {
            checks.push(durability(&pool).await);
            checks.push(senders(&pool, server, context).await);
            pool.close().await;
        }
        Err(error) => checks.push(Check::from_error("engine's role", &error, "grant ektola_engine to the login role")),
    }
    checks
}

async fn version(owner: &mut PgConnection, server: &Server) -> Check {
    let found = sqlx::query!(
        r#"SELECT current_setting('server_version') AS "version!",
                  current_setting('server_version_num')::integer / 10000 AS "major!""#
    )
    .fetch_one(owner)
    .await;
    let place = if server.is_private() { "private" } else { "of DATABASE_URL" };
    match found {
        Ok(found) if found.major >= VERSION_MIN => {
            Check::good("database", format!("Postgres {}, {place}", found.version))
        }
        Ok(found) => Check::bad(
            "database",
            format!("Postgres {} is older than {VERSION_MIN}", found.version),
            format!("upgrade the server to Postgres {VERSION_MIN} or later"),
        ),
        Err(error) => Check::from_error("database", &error.into(), "look at the server's log"),
    }
}

async fn migrations(owner: &mut PgConnection, call: &str) -> (Check, bool) {
    const NAME: &str = "migrations";
    let state = match SchemaState::read(owner).await {
        Ok(state) => state,
        Err(error) => return (Check::from_error(NAME, &error.into(), "look at the server's log"), false),
    };
    if let SchemaState::Current { migrations } = state {
        return (Check::good(NAME, format!("current, {migrations} applied")), true);
    }
    let check = match state.check(call) {
        Ok(()) => Check::good(NAME, "current"),
        Err(failure) => {
            let error = anyhow::Error::from(failure);
            Check::bad(NAME, error.to_string(), next_step(&error).unwrap_or(call))
        }
    };
    (check, false)
}

/// As the engine's own connections see the settings, which sets `synchronous_commit` itself.
async fn durability(pool: &PgPool) -> Check {
    const NAME: &str = "durability";
    let settings = sqlx::query!(
        r#"SELECT current_setting('fsync') AS "fsync!",
                  current_setting('full_page_writes') AS "full_page_writes!",
                  current_setting('synchronous_commit') AS "synchronous_commit!""#
    )
    .fetch_one(pool)
    .await;
    match settings {
        Ok(found) => durability_of(&found.fsync, &found.full_page_writes, &found.synchronous_commit),
        Err(error) => Check::from_error(NAME, &error.into(), "look at the server's log"),
    }
}

fn durability_of(fsync: &str, full_page_writes: &str, synchronous_commit: &str) -> Check {
    const NAME: &str = "durability";
    let weak: Vec<String> = [
        ("fsync", fsync, fsync == "on"),
        ("full_page_writes", full_page_writes, full_page_writes == "on"),
        // `remote_apply` promises more than `on`.
        ("synchronous_commit", synchronous_commit, ["on", "remote_apply"].contains(&synchronous_commit)),
    ]
    .iter()
    .filter(|(_, _, is_safe)| !is_safe)
    .map(|(name, value, _)| format!("{name} = {value}"))
    .collect();
    if weak.is_empty() {
        Check::good(NAME, "fsync, full_page_writes and synchronous_commit are on")
    } else {
        let next = "set it to on in postgresql.conf: after a power failure messages could be sent twice";
        Check::bad(NAME, weak.join(", "), next)
    }
}

async fn senders(pool: &PgPool, server: &Server, context: &Context) -> Check {
    const NAME: &str = "senders";
    let found = match senders::list_senders(pool, None).await {
        Ok(found) => found,
        Err(error) => return Check::from_error(NAME, &error.into(), "look at the server's log"),
    };
    let (sandbox, real): (Vec<_>, Vec<_>) = found.iter().partition(|sender| sender.sandbox);
    match (real.len(), sandbox.len()) {
        (0, 0) => Check::bad(NAME, "there is no WhatsApp number", server.call(context, "sender add --help")),
        (0, _) => Check::good(NAME, "the sandbox only: nothing reaches WhatsApp"),
        (real, _) => {
            Check::good(NAME, format!("{} WhatsApp number{}", count(number(real)), if real == 1 { "" } else { "s" }))
        }
    }
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn every_weak_setting_is_named() {
        assert_eq!(durability_of("on", "on", "on").verdict, Verdict::Good);
        assert_eq!(durability_of("on", "on", "remote_apply").verdict, Verdict::Good);
        let weak = durability_of("off", "on", "local");
        assert_eq!((weak.verdict, weak.found.as_str()), (Verdict::Bad, "fsync = off, synchronous_commit = local"));
    }
}
