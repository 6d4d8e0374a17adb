-- What could not be applied or sent is kept for a person, who gives it back or discards it. Beside that, what the
-- interpreter of webhooks needs to find the one body that it cannot get through.

-- A thing is parked once, however often it is tried: parking it again replaces the reason. Where an earlier release
-- has parked it twice, the later reason stays.
DELETE FROM dead_letters d USING dead_letters later
WHERE later.source = d.source AND later.reference = d.reference AND later.id > d.id;

-- The reference of a webhook is its body's id, with a slash and the item's number where a single item is meant; that of
-- a dispatch is the message's id.
ALTER TABLE dead_letters
    -- NULL: not known, as for a body that cannot be read.
    ADD COLUMN tenant_id uuid,
    -- How often it was tried before it was parked.
    ADD COLUMN attempts integer NOT NULL DEFAULT 1,
    ADD CONSTRAINT dead_letters_reference_key UNIQUE (source, reference);

-- A body comes with its pending row in one statement and is kept after it, so the check of the reference could find
-- nothing; it costs a query and a lock on the body for each row.
ALTER TABLE webhook_pending DROP CONSTRAINT webhook_pending_body_fkey;
ALTER TABLE webhook_pending
    ALTER COLUMN not_before SET DEFAULT '-infinity',
    -- The items that are to be interpreted again; NULL: all.
    ADD COLUMN items integer[];
-- Bodies that failed before are interpreted alone, between the others.
CREATE INDEX webhook_pending_failed ON webhook_pending (not_before) WHERE attempts > 0;

-- The bodies that an interpreter is at work on. A row that outlives its process names the suspects: one of them may be
-- what ended it.
CREATE TABLE webhook_steps (
    id       uuid CONSTRAINT webhook_steps_pkey PRIMARY KEY,
    holder   uuid NOT NULL,
    body_ids bigint[] NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_steps TO ektola_engine;

-- A status that waits is read again from its body. The column goes when no release reads it any more.
ALTER TABLE webhook_waiting ALTER COLUMN status DROP NOT NULL;

-- A third of the work of the default method for bodies of many statuses, and the same size. A server may be built
-- without it.
DO $$
BEGIN
    ALTER TABLE webhook_bodies ALTER COLUMN body SET COMPRESSION lz4;
EXCEPTION
    WHEN feature_not_supported THEN NULL;
END
$$;
