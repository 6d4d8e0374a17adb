-- Templates as WhatsApp knows them, and how each number sends.

ALTER TABLE senders
    -- NULL: the version that is configured for all.
    ADD COLUMN api_version text CONSTRAINT senders_api_version_check CHECK (api_version ~ '^v[0-9]+\.[0-9]+$'),
    -- Do offers go through the endpoint for marketing messages?
    ADD COLUMN marketing_api boolean NOT NULL DEFAULT false,
    ADD COLUMN product_policy text NOT NULL DEFAULT 'CLOUD_API_FALLBACK' CONSTRAINT senders_product_policy_check
        CHECK (product_policy IN ('CLOUD_API_FALLBACK', 'STRICT')),
    -- NULL: as the account is set up at Meta.
    ADD COLUMN activity_sharing boolean;

ALTER TABLE templates
    -- A status of which Meta has told nobody yet must not stop the others from being read; only APPROVED can be sent.
    DROP CONSTRAINT templates_status_check,
    ADD CONSTRAINT templates_status_check CHECK (status ~ '^[A-Z_]{1,64}$'),
    -- The account that has it; NULL for one that was recorded by hand and never seen there.
    ADD COLUMN waba_id text,
    ADD COLUMN provider_id text,
    ADD COLUMN parameter_format text NOT NULL DEFAULT 'POSITIONAL' CONSTRAINT templates_parameter_format_check
        CHECK (parameter_format IN ('POSITIONAL', 'NAMED')),
    ADD COLUMN quality_score text,
    -- When the status was true; older news changes nothing. NULL: no news yet.
    ADD COLUMN status_at timestamptz,
    -- How often Meta has paused it. It lifts the first two pauses by itself.
    ADD COLUMN pauses integer NOT NULL DEFAULT 0,
    ADD COLUMN synced_at timestamptz;
CREATE INDEX templates_waba ON templates (waba_id, name) WHERE waba_id IS NOT NULL;

-- What changed about a template, for the person who asks why a run stopped or a price rose.
CREATE TABLE template_changes (
    id          bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT template_changes_pkey PRIMARY KEY,
    template_id uuid NOT NULL CONSTRAINT template_changes_template_fkey REFERENCES templates ON DELETE CASCADE,
    at          timestamptz NOT NULL,
    -- A category that is announced has not changed yet.
    what        text NOT NULL CONSTRAINT template_changes_what_check
        CHECK (what IN ('status', 'category', 'category_announced', 'quality_score', 'components')),
    -- NULL where there was none, and for components, which are too long to show.
    from_value  text,
    to_value    text,
    source      text NOT NULL CONSTRAINT template_changes_source_check CHECK (source IN ('sync', 'webhook')),
    -- Meta's word for why, such as FIRST_PAUSE.
    detail      text
);
-- News that is delivered again is one change.
CREATE UNIQUE INDEX template_changes_once
    ON template_changes (template_id, what, at, coalesce(from_value, ''), coalesce(to_value, ''));

-- When the templates of an account are read again. A row belongs to a tenant, since the token is the tenant's.
CREATE TABLE template_syncs (
    tenant_id    uuid NOT NULL CONSTRAINT template_syncs_tenant_fkey REFERENCES tenants,
    waba_id      text NOT NULL,
    due_at       timestamptz NOT NULL,
    -- Whoever reads it now.
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    ended_at     timestamptz,
    -- Why the last attempt failed; NULL if it did not.
    error        text,
    CONSTRAINT template_syncs_pkey PRIMARY KEY (tenant_id, waba_id)
);

-- The open runs of each template: derived from the log by a subscription, so that a template that may not be sent any
-- more stops them, and one that may again lets them go on.
CREATE TABLE template_runs (
    run_id      uuid CONSTRAINT template_runs_pkey PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    template_id uuid NOT NULL,
    -- `waiting`: stalled since the template is not approved; `refused`: stalled since WhatsApp refused it as paused;
    -- `held`: paused, or stalled for something else.
    state       text NOT NULL CONSTRAINT template_runs_state_check
        CHECK (state IN ('running', 'waiting', 'refused', 'held')),
    since       timestamptz NOT NULL,
    -- Does it count as a reminder, which goes to whoever has stopped offers?
    reminders   boolean NOT NULL
);
CREATE INDEX template_runs_template ON template_runs (template_id);

GRANT SELECT, INSERT, UPDATE, DELETE ON template_changes, template_syncs, template_runs TO ektola_engine;
GRANT USAGE ON SEQUENCE template_changes_id_seq TO ektola_engine;
