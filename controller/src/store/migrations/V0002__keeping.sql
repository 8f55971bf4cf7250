-- A person's hold on a recovery point, in all regions: at most one per person and point (I1).
CREATE TABLE pin (
  point_id       INTEGER NOT NULL REFERENCES point (id) ON DELETE RESTRICT,
  owner          TEXT NOT NULL,
  reason         TEXT NOT NULL,
  since_ms       INTEGER NOT NULL,
  until_ms       INTEGER,                       -- NULL: for ever
  PRIMARY KEY (point_id, owner)
) STRICT, WITHOUT ROWID;

-- Counts the changes of a point's pins, and which of them its tags in Azure show.
ALTER TABLE point ADD COLUMN pins_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE point ADD COLUMN pins_mirrored INTEGER NOT NULL DEFAULT 0;
CREATE INDEX point_with_stale_pins ON point (id) WHERE pins_version <> pins_mirrored;

-- While there is a row, azdr deletes nothing on its own or anybody's account: a catalogue that was
-- rebuilt may lack what would have kept a point.
CREATE TABLE deletion_hold (
  only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
  since_ms       INTEGER NOT NULL,
  reason         TEXT NOT NULL
) STRICT;

-- VMs whose agents' certificates were issued before the catalogue was rebuilt, and so are not in
-- agent_certificate: they are taken in when they are shown. Revoking ends it.
CREATE TABLE unrecorded_certificates (
  item_id        INTEGER PRIMARY KEY REFERENCES item (id),
  before_ms      INTEGER NOT NULL
) STRICT;
