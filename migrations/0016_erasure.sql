-- Erasing contacts. See docs/erasure.md.

-- What is being erased. The number is held only while there is work to do with it.
CREATE TABLE erasures (
    contact_id   uuid CONSTRAINT erasures_pkey PRIMARY KEY,
    tenant_id    uuid NOT NULL,
    phone        text,
    requested_at timestamptz NOT NULL,
    done_at      timestamptz,
    CONSTRAINT erasures_phone_check CHECK (done_at IS NULL OR phone IS NULL)
);
CREATE INDEX erasures_open ON erasures (requested_at) WHERE done_at IS NULL;

-- Who was erased, known by a keyed hash alone: a number, or another name by which WhatsApp knows the person. The number
-- is not taken up again, and what still comes under these names is not kept.
CREATE TABLE suppressions (
    tenant_id uuid NOT NULL,
    hash      bytea NOT NULL,
    kind      text NOT NULL CONSTRAINT suppressions_kind_check CHECK (kind IN ('phone', 'name')),
    erased_at timestamptz NOT NULL,
    CONSTRAINT suppressions_pkey PRIMARY KEY (tenant_id, hash)
);

-- By which key the hashes were made, so that another one is noticed; and up to which stored webhook nothing of them is
-- left. One row.
CREATE TABLE suppression_state (
    id           boolean CONSTRAINT suppression_state_pkey PRIMARY KEY DEFAULT true CHECK (id),
    key_check    bytea NOT NULL,
    last_body_id bigint NOT NULL
);

-- Recipients of whom nothing but the ids is left.
CREATE INDEX message_recipients_erased ON message_recipients (message_id) WHERE phone = '';
CREATE INDEX inbound_messages_wa_id ON inbound_messages (tenant_id, wa_id) WHERE wa_id IS NOT NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON erasures, suppressions, suppression_state TO ektola_engine;
