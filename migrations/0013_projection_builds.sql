-- Each generation of a projection: its rows, folded from the log, in a schema of its own. One is live, and its tables lie
-- in read_model; a newer one is built beside it, and an older one is fed until it is given up, so that it can be switched
-- back to. A generation that is switched changes places with the live one, tables and all.
CREATE TABLE projection_builds (
    projection   text NOT NULL,
    generation   integer NOT NULL,
    -- The version of the projection that folded it.
    version      integer NOT NULL,
    schema_name  text NOT NULL,
    -- The name of its checkpoint.
    subscription text NOT NULL CONSTRAINT projection_builds_subscription_key UNIQUE,
    state        text NOT NULL CONSTRAINT projection_builds_state_check
        CHECK (state IN ('building', 'ready', 'live', 'previous')),
    -- The events that the rebuild has read, to be compared with the log; those that are followed later do not count.
    events_read  bigint NOT NULL DEFAULT 0,
    -- The position at which the rebuild ended and following began.
    built_up_to  bigint,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    switched_at  timestamptz,
    CONSTRAINT projection_builds_pkey PRIMARY KEY (projection, generation),
    -- At most one of each at a time.
    CONSTRAINT projection_builds_state_key UNIQUE (projection, state) DEFERRABLE INITIALLY DEFERRED
);

-- What a projection could not take in: the events of one aggregate from one position on. The others go on.
CREATE TABLE projection_parked (
    projection     text NOT NULL,
    generation     integer NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    -- The first event that is left out.
    from_position  bigint NOT NULL,
    -- 'unreadable': this release cannot decode it; 'refused': the database refused what it means.
    class          text NOT NULL CONSTRAINT projection_parked_class_check CHECK (class IN ('unreadable', 'refused')),
    error          text NOT NULL,
    attempts       integer NOT NULL DEFAULT 1,
    parked_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    tried_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT projection_parked_pkey PRIMARY KEY (projection, generation, aggregate_type, aggregate_id),
    CONSTRAINT projection_parked_build_fkey FOREIGN KEY (projection, generation) REFERENCES projection_builds
        ON DELETE CASCADE
);

INSERT INTO projection_builds (projection, generation, version, schema_name, subscription, state)
SELECT name, 1, 1, 'read_model', 'projection:' || name, 'live'
FROM unnest(ARRAY['campaigns', 'runs', 'messages']) AS name;

GRANT SELECT, INSERT, UPDATE, DELETE ON projection_builds, projection_parked TO ektola_engine;
