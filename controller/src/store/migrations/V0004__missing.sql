-- Snapshots that Azure has no more although azdr did not delete them: since when that is known.
ALTER TABLE snapshot ADD COLUMN missing_ms INTEGER;
CREATE INDEX snapshot_missing ON snapshot (point_id) WHERE missing_ms IS NOT NULL;
