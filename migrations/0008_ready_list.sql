-- The ready list in the order of the log, and the Postgres queue as a table of its own.
--
-- What is ready, claimed and open is derived from the log: it is thrown away and read again from the beginning.
DROP TABLE ready_list;

CREATE TABLE ready_list (
    message_id uuid CONSTRAINT ready_list_pkey PRIMARY KEY,
    attempt    integer NOT NULL,
    tenant_id  uuid NOT NULL,
    run_id     uuid NOT NULL,
    contact_id uuid NOT NULL,
    -- The position of the event that made it ready. It grows from row to row as they are written, so that a feeder
    -- finds what is new behind the place where it stopped.
    position   bigint NOT NULL,
    -- NULL: at once. A time of the engine's clock: a retry, or a contact that had a message a moment ago. Infinity: parked
    -- for a person (see dead_letters).
    due_at     timestamptz
);
-- The feeder's ways in.
CREATE INDEX ready_list_at_once ON ready_list (run_id, position) WHERE due_at IS NULL;
CREATE INDEX ready_list_later ON ready_list (run_id, due_at) WHERE due_at IS NOT NULL;

-- The dispatch queue of an installation without a broker: copies of a short stretch of the ready list. A parcel holds
-- messages of one sender and lane, ids only.
CREATE TABLE dispatch_parcels (
    id           bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT dispatch_parcels_pkey PRIMARY KEY,
    sender_id    uuid NOT NULL,
    lane         text NOT NULL CONSTRAINT dispatch_parcels_lane_check CHECK (lane IN ('utility', 'marketing')),
    items        jsonb NOT NULL,
    -- A parcel that a consumer has taken is not given to another one before this.
    leased_until timestamptz,
    deliveries   integer NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX dispatch_parcels_queue ON dispatch_parcels (sender_id, lane, id);

-- How often a delivery of this message was lost with the process that held it, or its claim could not be decided.
CREATE TABLE dispatch_strikes (
    message_id uuid CONSTRAINT dispatch_strikes_pkey PRIMARY KEY,
    strikes    integer NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON ready_list, dispatch_parcels, dispatch_strikes TO ektola_engine;

TRUNCATE run_gates, open_claims;
UPDATE subscriptions SET position = 0 WHERE name = 'ready-list';
