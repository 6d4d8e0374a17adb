-- What the engine's own readers of the log keep: saga state, timers, the fan-out's cursors and the ready list.

CREATE TABLE saga_states (
    saga  text NOT NULL,
    key   text NOT NULL,
    state jsonb NOT NULL,
    CONSTRAINT saga_states_pkey PRIMARY KEY (saga, key)
) WITH (fillfactor = 70);

-- Stored due work: one timer per saga and key. Times are those of the engine's clock.
CREATE TABLE saga_timers (
    saga   text NOT NULL,
    key    text NOT NULL,
    due_at timestamptz NOT NULL,
    CONSTRAINT saga_timers_pkey PRIMARY KEY (saga, key)
) WITH (fillfactor = 70);
CREATE INDEX saga_timers_due ON saga_timers (due_at);

-- One task per run whose audience is still being resolved; the cursor is the last contact that was queued or skipped.
CREATE TABLE fan_out_tasks (
    run_id       uuid CONSTRAINT fan_out_tasks_pkey PRIMARY KEY,
    tenant_id    uuid NOT NULL,
    -- The position of RunStarted: the audience is who was in the segment then.
    position     bigint NOT NULL,
    cursor       uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    queued       bigint NOT NULL DEFAULT 0,
    skipped      bigint NOT NULL DEFAULT 0,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    last_turn    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

-- May messages of this run go out?
CREATE TABLE run_gates (
    run_id      uuid CONSTRAINT run_gates_pkey PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    campaign_id uuid,
    sender_id   uuid NOT NULL,
    lane        text NOT NULL CONSTRAINT run_gates_lane_check CHECK (lane IN ('utility', 'marketing')),
    state       text NOT NULL CONSTRAINT run_gates_state_check CHECK (state IN ('open', 'paused', 'cancelled', 'expired'))
) WITH (fillfactor = 70);

CREATE INDEX run_gates_open ON run_gates (sender_id, lane) WHERE state = 'open';

-- The messages that may be sent, each with the number of its next attempt. Ids only; derived from the log.
CREATE TABLE ready_list (
    message_id   uuid CONSTRAINT ready_list_pkey PRIMARY KEY,
    attempt      integer NOT NULL,
    tenant_id    uuid NOT NULL,
    run_id       uuid NOT NULL,
    due_at       timestamptz NOT NULL,
    -- Set while the message is in the dispatch queue, with the sender and the lane of that queue.
    published_at timestamptz,
    sender_id    uuid,
    lane         text,
    -- The Postgres queue's own: a row that a consumer has taken is not given to another one before this.
    leased_until timestamptz
) WITH (fillfactor = 80);
-- The feeder's way in: the next unpublished rows of one run, in the order of the run.
CREATE INDEX ready_list_unpublished ON ready_list (run_id, due_at, message_id) WHERE published_at IS NULL;
-- What is outstanding per sender and lane, and the Postgres queue's way in.
CREATE INDEX ready_list_published ON ready_list (sender_id, lane, published_at) WHERE published_at IS NOT NULL;

-- Claims whose outcome is not in the log yet: what a sweeper has to look at.
CREATE TABLE open_claims (
    message_id uuid CONSTRAINT open_claims_pkey PRIMARY KEY,
    attempt    integer NOT NULL,
    tenant_id  uuid NOT NULL,
    run_id     uuid NOT NULL,
    -- The call journal of the process that claimed it.
    journal_id uuid NOT NULL,
    deadline   timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX open_claims_deadline ON open_claims (deadline);

GRANT SELECT, INSERT, UPDATE, DELETE ON saga_states, saga_timers, fan_out_tasks, run_gates, ready_list, open_claims
    TO ektola_engine;
