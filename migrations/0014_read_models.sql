-- What happened when: per run and quarter of an hour, so that the days of any zone, of senders, campaigns and tenants can
-- be added up from it: every zone's days begin with a quarter of an hour.
CREATE TABLE read_model.activity (
    run_id    uuid NOT NULL,
    quarter      timestamptz NOT NULL,
    -- queued, skipped, attempted, released, sent, delivered, read, failed, deferred, unknown, unconfirmed, expired,
    -- cancelled
    kind      text NOT NULL,
    tenant_id uuid NOT NULL,
    count     bigint NOT NULL,
    CONSTRAINT activity_pkey PRIMARY KEY (run_id, quarter, kind)
) WITH (fillfactor = 50);
CREATE INDEX activity_tenant ON read_model.activity (tenant_id, quarter);

-- Messages of whose price WhatsApp has spoken, each once, in the quarter of an hour in which it did so first.
CREATE TABLE read_model.billing (
    run_id       uuid NOT NULL,
    quarter         timestamptz NOT NULL,
    -- WhatsApp's words; empty where it said nothing.
    category     text NOT NULL,
    pricing_type text NOT NULL,
    -- 'yes', 'no', or 'unknown' where WhatsApp did not say.
    billable     text NOT NULL CONSTRAINT billing_billable_check CHECK (billable IN ('yes', 'no', 'unknown')),
    tenant_id    uuid NOT NULL,
    count        bigint NOT NULL,
    CONSTRAINT billing_pkey PRIMARY KEY (run_id, quarter, category, pricing_type, billable)
) WITH (fillfactor = 50);
CREATE INDEX billing_tenant ON read_model.billing (tenant_id, quarter);

GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON read_model.activity, read_model.billing TO ektola_engine;

INSERT INTO projection_builds (projection, generation, version, schema_name, subscription, state)
SELECT name, 1, 1, 'read_model', 'projection:' || name, 'live' FROM unnest(ARRAY['activity', 'billing']) AS name;

-- Messages are searched run by run, the newest first.
CREATE INDEX runs_nominal ON read_model.runs (tenant_id, nominal_at DESC, id DESC);
