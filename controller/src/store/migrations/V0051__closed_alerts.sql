-- Who closed the alert; NULL: nobody has. `resolution` is the reason that they gave.
ALTER TABLE alert ADD COLUMN closed_by TEXT;
-- When a condition that was closed was so no longer; NULL while it is: it is not raised anew before.
ALTER TABLE alert ADD COLUMN ended_ms INTEGER;

CREATE UNIQUE INDEX alert_closed ON alert (cause)
  WHERE closed_by IS NOT NULL AND run_id IS NULL AND ended_ms IS NULL;
CREATE INDEX alert_closed_by_item ON alert (item_id)
  WHERE closed_by IS NOT NULL AND run_id IS NULL AND ended_ms IS NULL;
