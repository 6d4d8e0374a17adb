-- Which position the log had reached when: samples of the engine's clock, taken while the log moves. They narrow down
-- where an instant lies in the log; the events themselves say the rest.
CREATE TABLE log_times (
    position bigint CONSTRAINT log_times_pkey PRIMARY KEY,
    at       timestamptz NOT NULL
);
CREATE INDEX log_times_at ON log_times (at);
GRANT SELECT, INSERT ON log_times TO ektola_engine;
