-- When each VM's recovery points were last tried: kept by the trigger, since asking a million points
-- for their proofs takes too long for a screen.
CREATE TABLE item_proof (
  item_id        INTEGER PRIMARY KEY REFERENCES item (id) ON DELETE CASCADE,
  passed_ms      INTEGER,                       -- the last attempt that held
  failed_ms      INTEGER                        -- the last that did not
) STRICT;

INSERT INTO item_proof
  SELECT p.item_id, max(CASE WHEN f.passed THEN f.at_ms END), max(CASE WHEN NOT f.passed THEN f.at_ms END)
  FROM proof f JOIN point p ON p.id = f.point_id GROUP BY p.item_id;

CREATE TRIGGER proof_noted AFTER INSERT ON proof
BEGIN
  INSERT INTO item_proof
    SELECT item_id, CASE WHEN NEW.passed THEN NEW.at_ms END, CASE WHEN NOT NEW.passed THEN NEW.at_ms END
    FROM point WHERE id = NEW.point_id
  ON CONFLICT (item_id) DO UPDATE SET
    passed_ms = coalesce(max(passed_ms, excluded.passed_ms), excluded.passed_ms, passed_ms),
    failed_ms = coalesce(max(failed_ms, excluded.failed_ms), excluded.failed_ms, failed_ms);
END;

-- The last drill of a VM that passed.
CREATE INDEX drill_passed ON drill (item_id, started_ms) WHERE passed = 1;
