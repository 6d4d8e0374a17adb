-- The log's keys are ids and names of our own: they are compared by their bytes. In any other collation each step of a
-- lookup asks the operating system's rules of a language, and every command looks its aggregate up.
ALTER TABLE events
    ALTER COLUMN aggregate_type TYPE text COLLATE "C",
    ALTER COLUMN aggregate_id TYPE text COLLATE "C";
