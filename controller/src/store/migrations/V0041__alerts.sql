-- What somebody should look at. An event comes from one run (`run_id`) and is resolved by the next
-- success; a condition (no `run_id`) lasts as long as it is so.
CREATE TABLE alert (
  id             INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again, also when its row is gone
  kind           TEXT NOT NULL,
  cause          TEXT NOT NULL,                 -- the kind and what it is about
  severity       TEXT NOT NULL CHECK (severity IN ('medium', 'high', 'critical')),
  item_id        INTEGER REFERENCES item (id) ON DELETE CASCADE,
  run_id         INTEGER,
  point_name     TEXT NOT NULL,                 -- '' when it is about none
  region         TEXT NOT NULL,                 -- '' when it is about none
  what           TEXT NOT NULL,
  next           TEXT NOT NULL,
  raised_ms      INTEGER NOT NULL,
  since_ms       INTEGER NOT NULL,              -- the first of the same cause without a success between
  times          INTEGER NOT NULL,              -- how many of the same cause that makes
  resolved_ms    INTEGER,
  resolution     TEXT
) STRICT;
-- At most one open alert of a cause, and one alert ever of a run's: whatever is repeated after a crash.
CREATE UNIQUE INDEX alert_open ON alert (cause) WHERE resolved_ms IS NULL;
CREATE UNIQUE INDEX alert_of_run ON alert (run_id, cause) WHERE run_id IS NOT NULL;
CREATE INDEX alert_open_by_item ON alert (item_id) WHERE resolved_ms IS NULL;
CREATE INDEX alert_by_item ON alert (item_id, id);

-- Since when Azure has the VM no more; NULL: it has it, as far as is known.
ALTER TABLE policy ADD COLUMN gone_ms INTEGER;

-- The share of drills that passed lately.
CREATE INDEX drill_by_time ON drill (started_ms, passed);

-- When the first backup was taken that came after the VM's last proof; NULL: none has. Kept by triggers:
-- which backups there were cannot be told from those that are kept.
ALTER TABLE item_proof ADD COLUMN unproved_ms INTEGER;

INSERT INTO item_proof (item_id, unproved_ms)
  SELECT p.item_id, min(p.created_ms) FROM point p LEFT JOIN item_proof f ON f.item_id = p.item_id
  WHERE f.passed_ms IS NULL OR p.created_ms > f.passed_ms GROUP BY p.item_id
ON CONFLICT (item_id) DO UPDATE SET unproved_ms = excluded.unproved_ms;

CREATE TRIGGER point_unproved AFTER INSERT ON point
BEGIN
  INSERT INTO item_proof (item_id, unproved_ms) VALUES (NEW.item_id, NEW.created_ms)
  ON CONFLICT (item_id) DO UPDATE SET
    unproved_ms = min(coalesce(unproved_ms, excluded.unproved_ms), excluded.unproved_ms);
END;

DROP TRIGGER proof_noted;
CREATE TRIGGER proof_noted AFTER INSERT ON proof
BEGIN
  INSERT INTO item_proof (item_id, passed_ms, failed_ms)
    SELECT item_id, CASE WHEN NEW.passed THEN NEW.at_ms END, CASE WHEN NOT NEW.passed THEN NEW.at_ms END
    FROM point WHERE id = NEW.point_id
  ON CONFLICT (item_id) DO UPDATE SET
    passed_ms = coalesce(max(passed_ms, excluded.passed_ms), excluded.passed_ms, passed_ms),
    failed_ms = coalesce(max(failed_ms, excluded.failed_ms), excluded.failed_ms, failed_ms),
    unproved_ms = CASE WHEN excluded.passed_ms IS NULL THEN unproved_ms END;
END;
