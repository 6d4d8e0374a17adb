-- The log: one append-only table that orders everything.
--
-- Migrations run as the owner. The engine works as the role ektola_engine, which may read and append events and
-- nothing else here, so that no code path of the engine can change history.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ektola_engine') THEN
        CREATE ROLE ektola_engine NOLOGIN;
    END IF;
EXCEPTION
    -- Roles belong to the whole cluster: another database of it may be migrated at the same moment.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'ektola_engine', 'MEMBER') THEN
        GRANT ektola_engine TO current_user;
    END IF;
END
$$;

CREATE TABLE events (
    aggregate_type text NOT NULL,
    aggregate_id   text NOT NULL,
    sequence       bigint NOT NULL CONSTRAINT events_sequence_check CHECK (sequence > 0),
    event_type     text NOT NULL,
    event_version  text NOT NULL,
    payload        jsonb NOT NULL,
    metadata       jsonb NOT NULL,
    -- CACHE 1 is part of the ordering proof: a cached block would be drawn before the lock is taken.
    position       bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME events_position_seq CACHE 1),
    tenant_id      uuid NOT NULL GENERATED ALWAYS AS ((metadata ->> 'tenant_id')::uuid) STORED,
    -- The database's time of the append, for people. It is not monotonic in position: never order by it.
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT events_pkey PRIMARY KEY (aggregate_type, aggregate_id, sequence),
    CONSTRAINT events_position_key UNIQUE (position)
);

COMMENT ON TABLE events IS 'The log. Append-only by trigger and by grant; position is the one order of everything.';

-- The shared lock that every writer holds from before its first position is drawn until its transaction ends.
-- Readers never take it; they list its holders (see events_position_and_writers). The two numbers are the key of
-- the lock: "EKTO" in ASCII, and 1 for the log.
CREATE FUNCTION events_lock_for_append() RETURNS trigger
    LANGUAGE plpgsql AS
$$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1162564687, 1);
    RETURN NULL;
END
$$;

CREATE TRIGGER events_lock_for_append
    BEFORE INSERT ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_lock_for_append();
-- ALWAYS: also under session_replication_role = replica, so that no path of insertion escapes the order.
ALTER TABLE events ENABLE ALWAYS TRIGGER events_lock_for_append;

CREATE FUNCTION events_refuse_change() RETURNS trigger
    LANGUAGE plpgsql AS
$$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % on events is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER events_refuse_change
    BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_refuse_change;

-- The transactions that hold the writers' lock at this moment, as virtual transaction ids.
CREATE FUNCTION events_writers() RETURNS text[]
    LANGUAGE sql VOLATILE AS
$$
    SELECT coalesce(array_agg(l.virtualtransaction), '{}')
    FROM pg_locks l
    WHERE l.locktype = 'advisory'
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND l.classid = 1162564687::oid AND l.objid = 1::oid AND l.objsubid = 2
$$;

-- First the sequence, then the holders: a position at or below the value read was drawn by a transaction that is
-- in the list or has ended. plpgsql runs the two statements in this order, a single statement would not promise it.
CREATE FUNCTION events_position_and_writers(OUT last_position bigint, OUT writers text[])
    LANGUAGE plpgsql VOLATILE AS
$$
BEGIN
    SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END INTO last_position FROM events_position_seq s;
    writers := events_writers();
END
$$;

GRANT SELECT, INSERT ON events TO ektola_engine;
GRANT SELECT ON SEQUENCE events_position_seq TO ektola_engine;

-- One row per reader of the log: everything at or below position has taken effect.
CREATE TABLE subscriptions (
    name       text CONSTRAINT subscriptions_pkey PRIMARY KEY,
    position   bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);

-- Who may do a thing that only one process at a time should do. Times are those of the database.
CREATE TABLE leases (
    name       text CONSTRAINT leases_pkey PRIMARY KEY,
    holder     uuid NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 70);

GRANT SELECT, INSERT, UPDATE, DELETE ON subscriptions, leases TO ektola_engine;
