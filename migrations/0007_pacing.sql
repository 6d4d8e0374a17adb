-- Messages from users count against the rate of the number that they reach. One counter per sender, which only grows:
-- whoever paces the number reads it now and then and counts the difference.
CREATE TABLE sender_inbound (
    sender_id uuid CONSTRAINT sender_inbound_pkey PRIMARY KEY
        CONSTRAINT sender_inbound_sender_fkey REFERENCES senders ON DELETE CASCADE,
    received  bigint NOT NULL CONSTRAINT sender_inbound_received_check CHECK (received >= 0)
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, UPDATE, DELETE ON sender_inbound TO ektola_engine;
