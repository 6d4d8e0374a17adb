-- One run of the past: the events of its messages step by step, as the log would have them, and the rows that they have
-- left elsewhere if they are asked for. The ids are of the form that the engine derives: time, version 8, hash.
WITH hashed AS (
    SELECT n, md5($2::uuid::text || n::text) AS hash FROM generate_series(1, $3::float8::bigint) AS n
), messages AS MATERIALIZED (
    SELECT n,
           $1::text || '-8' || substr(hash, 1, 3) || '-a' || substr(hash, 4, 3) || '-' || substr(hash, 7, 12) AS id,
           md5(hash)::uuid AS contact
    FROM hashed
), steps AS (
    SELECT * FROM unnest($5::text[], $6::text[], $7::text[], $8::text[])
        WITH ORDINALITY AS s(event_type, event_version, payload, metadata, sequence)
), appended AS (
    INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
    SELECT 'Message', m.id, s.sequence, s.event_type, s.event_version,
           replace(s.payload, $4::text, m.contact::text)::jsonb, s.metadata::jsonb
    FROM messages m CROSS JOIN steps s ORDER BY s.sequence, m.id
), shown AS (
    INSERT INTO read_model.messages (id, tenant_id, run_id, contact_id, sender_id, status, attempts, queued_at, sent_at,
                                     delivered_at, read_at, position)
    SELECT m.id::uuid, $9, $2, m.contact, $10, 'read', 1, now(), now(), now(), now(), 0 FROM messages m
    WHERE $11::boolean ORDER BY m.id
), recipients AS (
    INSERT INTO message_recipients (message_id, tenant_id, contact_id, phone, variables)
    SELECT m.id::uuid, $9, m.contact, '+919' || lpad(m.n::text, 9, '0'), '{"1": "Customer"}' FROM messages m
    WHERE $11::boolean ORDER BY m.id
)
INSERT INTO provider_messages (sender_id, wamid, message_id, created_at)
SELECT $10, 'wamid.' || md5(m.id), m.id::uuid, now() FROM messages m WHERE $11::boolean ORDER BY m.id
