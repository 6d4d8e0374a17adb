-- Which call a WhatsApp id belongs to, so that a status about an earlier attempt is never taken for one about a later.
-- NULL: not known, as for a status that came before its answer when an earlier attempt is in doubt.
ALTER TABLE provider_messages ADD COLUMN attempt integer;

-- The calls of which nobody knows whether WhatsApp accepted them, derived from the log.
CREATE TABLE unknown_outcomes (
    message_id     uuid CONSTRAINT unknown_outcomes_pkey PRIMARY KEY,
    tenant_id      uuid NOT NULL,
    run_id         uuid NOT NULL,
    attempt        integer NOT NULL,
    -- Does the campaign want it sent again?
    resend         boolean NOT NULL,
    unknown_since  timestamptz NOT NULL,
    -- NULL: its window has not passed yet.
    unconfirmed_at timestamptz
);
CREATE INDEX unknown_outcomes_held ON unknown_outcomes (unknown_since) WHERE unconfirmed_at IS NULL;
CREATE INDEX unknown_outcomes_resent ON unknown_outcomes (unknown_since) WHERE unconfirmed_at IS NULL AND resend;
CREATE INDEX unknown_outcomes_tenant ON unknown_outcomes (tenant_id, unknown_since, message_id);

-- Waiting statuses go by their time, and with their body.
CREATE INDEX webhook_waiting_since ON webhook_waiting (waiting_since);
CREATE INDEX webhook_waiting_body ON webhook_waiting (body_id);

-- What a person has to do something about: one open notice for each thing that stands still and each reason.
CREATE TABLE notices (
    id        bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT notices_pkey PRIMARY KEY,
    tenant_id uuid NOT NULL CONSTRAINT notices_tenant_fkey REFERENCES tenants,
    scope     text NOT NULL CONSTRAINT notices_scope_check
        CHECK (scope IN ('template', 'sender', 'account', 'portfolio', 'campaign')),
    -- The template's or sender's or campaign's id, the WhatsApp Business Account's, or the tenant's.
    key       text NOT NULL,
    -- WhatsApp's error code.
    code      integer NOT NULL,
    first_at  timestamptz NOT NULL,
    last_at   timestamptz NOT NULL,
    refusals  bigint NOT NULL DEFAULT 1,
    -- NULL: open.
    done_at   timestamptz
);
CREATE UNIQUE INDEX notices_open ON notices (tenant_id, scope, key, code) WHERE done_at IS NULL;
CREATE INDEX notices_tenant ON notices (tenant_id, id);

GRANT SELECT, INSERT, UPDATE, DELETE ON unknown_outcomes, notices TO ektola_engine;
