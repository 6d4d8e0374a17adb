-- Seals: the log cut into segments, each with the Merkle root of its rows, the hash of the seal before it and a
-- signature. See docs/seals.md. As with the log itself, nobody changes or removes one.
CREATE TABLE log_seals (
    number         bigint CONSTRAINT log_seals_pkey PRIMARY KEY CONSTRAINT log_seals_number_check CHECK (number > 0),
    -- It covers the positions behind the first, up to and including the second.
    after_position bigint NOT NULL,
    up_to_position bigint NOT NULL,
    events         bigint NOT NULL,
    root           bytea NOT NULL,
    -- The hash of the header of the seal before it; 32 zeros for the first.
    previous       bytea NOT NULL,
    sealed_at      timestamptz NOT NULL,
    public_key     bytea NOT NULL,
    signature      bytea NOT NULL,
    -- Twelve bytes for each row: how far it lies behind after_position, and the beginning of its hash. They are not
    -- signed; they only help to name the row that is not what it was.
    hints          bytea NOT NULL,
    CONSTRAINT log_seals_span_check CHECK (up_to_position > after_position AND events > 0)
);

CREATE FUNCTION log_seals_refuse_change() RETURNS trigger
    LANGUAGE plpgsql AS
$$
BEGIN
    RAISE EXCEPTION 'seals are append-only: % on log_seals is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER log_seals_refuse_change
    BEFORE UPDATE OR DELETE OR TRUNCATE ON log_seals
    FOR EACH STATEMENT EXECUTE FUNCTION log_seals_refuse_change();
ALTER TABLE log_seals ENABLE ALWAYS TRIGGER log_seals_refuse_change;

GRANT SELECT, INSERT ON log_seals TO ektola_engine;
