-- What a VM's agent last said of whether its machine could be frozen.
CREATE TABLE preflight (
  item_id       INTEGER PRIMARY KEY REFERENCES item (id) ON DELETE CASCADE,
  at_ms         INTEGER NOT NULL,               -- by the controller's clock, when it was told
  ready         INTEGER NOT NULL CHECK (ready IN (0, 1)),
  problems_json TEXT NOT NULL                   -- what stands in the way, in words; [] when ready
) STRICT;
