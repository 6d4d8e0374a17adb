-- Reference data: ordinary tables, not history.

CREATE TABLE tenants (
    id         uuid CONSTRAINT tenants_pkey PRIMARY KEY,
    name       text NOT NULL CONSTRAINT tenants_name_key UNIQUE,
    -- IANA name; dates without an offset are local time of this zone.
    zone       text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE api_tokens (
    -- The readable part of the token; the secret part is stored as a hash only.
    id          text CONSTRAINT api_tokens_pkey PRIMARY KEY,
    tenant_id   uuid NOT NULL CONSTRAINT api_tokens_tenant_fkey REFERENCES tenants,
    secret_hash bytea NOT NULL,
    created_at  timestamptz NOT NULL,
    revoked_at  timestamptz
);

-- A sender is one WhatsApp number.
CREATE TABLE senders (
    id              uuid CONSTRAINT senders_pkey PRIMARY KEY,
    tenant_id       uuid NOT NULL CONSTRAINT senders_tenant_fkey REFERENCES tenants,
    phone_number_id text NOT NULL CONSTRAINT senders_phone_number_id_key UNIQUE,
    waba_id         text NOT NULL,
    -- NULL: the provider's own address.
    base_url        text,
    access_token    text NOT NULL,
    app_secret      text NOT NULL,
    verify_token    text NOT NULL,
    rate_per_s      integer NOT NULL DEFAULT 80 CONSTRAINT senders_rate_check CHECK (rate_per_s BETWEEN 1 AND 1000),
    sandbox         boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL
);
CREATE INDEX senders_tenant ON senders (tenant_id, created_at);

CREATE TABLE templates (
    id         uuid CONSTRAINT templates_pkey PRIMARY KEY,
    tenant_id  uuid NOT NULL CONSTRAINT templates_tenant_fkey REFERENCES tenants,
    name       text NOT NULL,
    language   text NOT NULL,
    category   text NOT NULL CONSTRAINT templates_category_check CHECK (category IN ('UTILITY', 'MARKETING', 'AUTHENTICATION')),
    status     text NOT NULL CONSTRAINT templates_status_check
        CHECK (status IN ('APPROVED', 'PENDING', 'REJECTED', 'PAUSED', 'DISABLED')),
    components jsonb NOT NULL,
    -- The names of the variables in the order in which the template shows them.
    variables  text[] NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT templates_name_language_key UNIQUE (tenant_id, name, language)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON tenants, api_tokens, senders, templates TO ektola_engine;
