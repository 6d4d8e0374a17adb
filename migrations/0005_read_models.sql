-- What can be asked. Every table here can be thrown away and folded again from the log; no personal value lives here.
CREATE SCHEMA read_model;
GRANT USAGE ON SCHEMA read_model TO ektola_engine;

CREATE TABLE read_model.campaigns (
    id              uuid CONSTRAINT campaigns_pkey PRIMARY KEY,
    tenant_id       uuid NOT NULL,
    name            text NOT NULL,
    status          text NOT NULL CONSTRAINT campaigns_status_check
        CHECK (status IN ('draft', 'active', 'paused', 'completed', 'cancelled')),
    definition      jsonb NOT NULL,
    revision        integer NOT NULL,
    -- The last occurrence that was run or skipped, in local time of the campaign's zone.
    last_occurrence text,
    runs            bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL,
    activated_at    timestamptz,
    ended_at        timestamptz,
    position        bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX campaigns_tenant ON read_model.campaigns (tenant_id, id);

CREATE TABLE read_model.runs (
    id            uuid CONSTRAINT runs_pkey PRIMARY KEY,
    tenant_id     uuid NOT NULL,
    -- NULL: a test message, which belongs to no campaign.
    campaign_id   uuid,
    status        text NOT NULL CONSTRAINT runs_status_check
        CHECK (status IN ('running', 'paused', 'stalled', 'completed', 'cancelled', 'expired')),
    stall_reason  text,
    nominal_at    timestamptz NOT NULL,
    scheduled     boolean NOT NULL,
    template_name text NOT NULL,
    language      text NOT NULL,
    segment       text NOT NULL,
    sender_id     uuid NOT NULL,
    started_at    timestamptz NOT NULL,
    resolved_at   timestamptz,
    ended_at      timestamptz,
    position      bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX runs_campaign ON read_model.runs (campaign_id, started_at, id);
CREATE INDEX runs_tenant ON read_model.runs (tenant_id, id);

-- Every counter of a run, as a sum over the log.
CREATE TABLE read_model.run_counts (
    run_id uuid NOT NULL,
    -- 'status': messages by present status; 'reached': messages that ever came this far;
    -- 'skipped': by reason; 'failed': by provider code.
    kind   text NOT NULL CONSTRAINT run_counts_kind_check CHECK (kind IN ('status', 'reached', 'skipped', 'failed')),
    key    text NOT NULL,
    count  bigint NOT NULL,
    CONSTRAINT run_counts_pkey PRIMARY KEY (run_id, kind, key)
) WITH (fillfactor = 50);

CREATE TABLE read_model.messages (
    id           uuid CONSTRAINT messages_pkey PRIMARY KEY,
    tenant_id    uuid NOT NULL,
    run_id       uuid NOT NULL,
    contact_id   uuid NOT NULL,
    sender_id    uuid NOT NULL,
    status       text NOT NULL,
    attempts     integer NOT NULL DEFAULT 0,
    -- Why it was skipped, failed, released or is in doubt.
    reason       text,
    error_code   integer,
    queued_at    timestamptz NOT NULL,
    sent_at      timestamptz,
    delivered_at timestamptz,
    read_at      timestamptz,
    position     bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX messages_run ON read_model.messages (run_id, id);
CREATE INDEX messages_contact ON read_model.messages (contact_id);

GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA read_model TO ektola_engine;
