-- What contacts write to us and what it means: inbound messages, the names by which WhatsApp knows a contact, and what
-- keeps a contact out of the next campaign.

-- Does the upload that named the contact say that it agreed to messages? NULL: no upload has named it yet. Whoever is
-- here already came by an upload, which counted as that.
ALTER TABLE contacts ADD COLUMN opt_in boolean DEFAULT true;
ALTER TABLE contacts ALTER COLUMN opt_in DROP DEFAULT;
ALTER TABLE contacts ADD COLUMN opt_in_at timestamptz;

-- Beside its phone WhatsApp names a contact by a wa_id, which may differ from the phone, and by a business-scoped user
-- id, which may come alone. Erasable.
CREATE TABLE contact_identities (
    tenant_id  uuid NOT NULL,
    kind       text NOT NULL CONSTRAINT contact_identities_kind_check CHECK (kind IN ('wa_id', 'user_id')),
    value      text NOT NULL,
    contact_id uuid NOT NULL CONSTRAINT contact_identities_contact_fkey REFERENCES contacts ON DELETE CASCADE,
    CONSTRAINT contact_identities_pkey PRIMARY KEY (tenant_id, kind, value)
);
CREATE INDEX contact_identities_contact ON contact_identities (contact_id);

-- What somebody said of whom only a business-scoped user id is known: it waits until a status or a message tells whose
-- that is. Only the last word of each counts. Erasable.
CREATE TABLE consent_waiting (
    tenant_id uuid NOT NULL,
    user_id   text NOT NULL,
    word      text NOT NULL CONSTRAINT consent_waiting_word_check
        CHECK (word IN ('opt_out', 'stop_marketing', 'resume_marketing')),
    source    text NOT NULL CONSTRAINT consent_waiting_source_check CHECK (source IN ('keyword', 'user_preferences')),
    said_at   timestamptz NOT NULL,
    CONSTRAINT consent_waiting_pkey PRIMARY KEY (tenant_id, user_id)
);

-- What users wrote and tapped, one row however often it is delivered. Erasable.
CREATE TABLE inbound_messages (
    sender_id     uuid NOT NULL,
    wamid         text NOT NULL,
    tenant_id     uuid NOT NULL,
    -- NULL: nobody whom the tenant knew when it came.
    contact_id    uuid,
    wa_id         text,
    user_id       text,
    -- WhatsApp's name of the kind: text, button, interactive, image, ...
    kind          text NOT NULL,
    -- What was written, or the title of what was tapped.
    text          text,
    -- The payload or id of what was tapped.
    payload       text,
    -- The message that it answers: WhatsApp's id of it, and ours if it is ours.
    context_wamid text,
    message_id    uuid,
    at            timestamptz NOT NULL,
    received_at   timestamptz NOT NULL,
    raw           jsonb NOT NULL,
    CONSTRAINT inbound_messages_pkey PRIMARY KEY (sender_id, wamid)
);
CREATE INDEX inbound_messages_contact ON inbound_messages (contact_id, at) WHERE contact_id IS NOT NULL;
CREATE INDEX inbound_messages_message ON inbound_messages (message_id, at) WHERE message_id IS NOT NULL;

-- Why a contact is left out of campaigns for a while. Derived from the log; ids only.
CREATE TABLE contact_flags (
    contact_id uuid NOT NULL,
    kind       text NOT NULL CONSTRAINT contact_flags_kind_check CHECK (kind IN ('undeliverable', 'cooling')),
    tenant_id  uuid NOT NULL,
    code       integer NOT NULL,
    flagged_at timestamptz NOT NULL,
    CONSTRAINT contact_flags_pkey PRIMARY KEY (contact_id, kind)
);

-- What WhatsApp has sent that this release does not interpret. The bodies themselves are kept with the others.
CREATE TABLE webhook_unknown (
    -- A field of a change, the name of a status, or the kind of a message.
    kind         text NOT NULL CONSTRAINT webhook_unknown_kind_check CHECK (kind IN ('field', 'status', 'message')),
    name         text NOT NULL,
    count        bigint NOT NULL,
    last_body_id bigint NOT NULL,
    last_seen_at timestamptz NOT NULL,
    CONSTRAINT webhook_unknown_pkey PRIMARY KEY (kind, name)
);

-- The app secret before the present one, by which webhooks may still be signed for a while.
ALTER TABLE senders
    ADD COLUMN previous_app_secret text,
    ADD COLUMN app_secret_replaced_at timestamptz;

GRANT SELECT, INSERT, UPDATE, DELETE ON contact_identities, consent_waiting, inbound_messages, contact_flags,
    webhook_unknown TO ektola_engine;
