-- When a contact came into a segment and left it, by the engine's clock, for people who ask why. Which of the two counts
-- for a run is decided by the positions alone. NULL: it happened before this release, or not yet.
ALTER TABLE contact_segments
    ADD COLUMN added_at timestamptz,
    ADD COLUMN removed_at timestamptz;
