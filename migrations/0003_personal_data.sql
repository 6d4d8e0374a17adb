-- The named erasable tables: everything personal is here and nowhere else. A rebuild never touches them.

-- Contact ids are random, never derived from a phone.
CREATE TABLE contacts (
    id         uuid CONSTRAINT contacts_pkey PRIMARY KEY,
    tenant_id  uuid NOT NULL CONSTRAINT contacts_tenant_fkey REFERENCES tenants,
    -- E.164 with the leading +.
    phone      text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT contacts_phone_key UNIQUE (tenant_id, phone)
);
CREATE INDEX contacts_tenant ON contacts (tenant_id, id);

-- What was known of a contact from one position of the log on, until another. The open version is the present one.
CREATE TABLE contact_versions (
    contact_id    uuid NOT NULL CONSTRAINT contact_versions_contact_fkey REFERENCES contacts ON DELETE CASCADE,
    from_position bigint NOT NULL,
    to_position   bigint,
    attributes    jsonb NOT NULL,
    CONSTRAINT contact_versions_pkey PRIMARY KEY (contact_id, from_position),
    CONSTRAINT contact_versions_span_check CHECK (to_position > from_position)
);

-- Which segments a contact carries, with the same span of positions.
CREATE TABLE contact_segments (
    tenant_id     uuid NOT NULL,
    segment       text NOT NULL,
    contact_id    uuid NOT NULL CONSTRAINT contact_segments_contact_fkey REFERENCES contacts ON DELETE CASCADE,
    from_position bigint NOT NULL,
    to_position   bigint,
    CONSTRAINT contact_segments_pkey PRIMARY KEY (tenant_id, segment, contact_id, from_position),
    CONSTRAINT contact_segments_span_check CHECK (to_position > from_position)
);
CREATE INDEX contact_segments_contact ON contact_segments (contact_id);

-- To whom a message goes and with which values; written in the transaction of its MessageQueued.
CREATE TABLE message_recipients (
    message_id uuid CONSTRAINT message_recipients_pkey PRIMARY KEY,
    tenant_id  uuid NOT NULL,
    contact_id uuid NOT NULL,
    phone      text NOT NULL,
    variables  jsonb NOT NULL
);
CREATE INDEX message_recipients_contact ON message_recipients (contact_id);

-- The provider's message ids (they embed the phone number). The dispatcher and the webhook interpreter meet on this
-- row, which either may create: a status that comes before its message is known waits here and nowhere else.
CREATE TABLE provider_messages (
    sender_id  uuid NOT NULL,
    wamid      text NOT NULL,
    message_id uuid,
    created_at timestamptz NOT NULL,
    CONSTRAINT provider_messages_pkey PRIMARY KEY (sender_id, wamid)
);
CREATE INDEX provider_messages_message ON provider_messages (message_id);

-- The inbox: raw bodies as received, stored before they are answered.
CREATE TABLE webhook_bodies (
    id          bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT webhook_bodies_pkey PRIMARY KEY,
    received_at timestamptz NOT NULL,
    body        bytea NOT NULL,
    -- The senders whose app secret verified the signature; a status for another number is not applied.
    verified_senders uuid[] NOT NULL
);

-- The bodies still to be interpreted, apart from the bodies themselves so that they stay written once.
CREATE TABLE webhook_pending (
    body_id      bigint CONSTRAINT webhook_pending_pkey PRIMARY KEY
        CONSTRAINT webhook_pending_body_fkey REFERENCES webhook_bodies ON DELETE CASCADE,
    attempts     integer NOT NULL DEFAULT 0,
    not_before   timestamptz NOT NULL
) WITH (fillfactor = 70);

-- Statuses whose message is not known yet; taken up as soon as provider_messages names it.
CREATE TABLE webhook_waiting (
    sender_id  uuid NOT NULL,
    wamid      text NOT NULL,
    body_id    bigint NOT NULL CONSTRAINT webhook_waiting_body_fkey REFERENCES webhook_bodies ON DELETE CASCADE,
    item       integer NOT NULL,
    status     jsonb NOT NULL,
    waiting_since timestamptz NOT NULL,
    CONSTRAINT webhook_waiting_pkey PRIMARY KEY (sender_id, wamid, body_id, item)
);

-- Webhook bodies, or single items of them, that could not be applied: kept for a person, never redelivered by themselves.
CREATE TABLE dead_letters (
    id         bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT dead_letters_pkey PRIMARY KEY,
    -- Where it comes from: 'webhook' or 'dispatch'.
    source     text NOT NULL CONSTRAINT dead_letters_source_check CHECK (source IN ('webhook', 'dispatch')),
    -- The webhook body's id, or the message's.
    reference  text NOT NULL,
    reason     text NOT NULL,
    parked_at  timestamptz NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON contacts, contact_versions, contact_segments, message_recipients,
    provider_messages, webhook_bodies, webhook_pending, webhook_waiting, dead_letters TO ektola_engine;
