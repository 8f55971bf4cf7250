-- Hashes of some of a recovery point's blocks, taken of its own snapshots; see azdr-domain's `content`.
CREATE TABLE content (
  point_id       INTEGER NOT NULL REFERENCES point (id) ON DELETE CASCADE,
  lun            INTEGER NOT NULL,              -- -1: OS disk
  run_id         INTEGER NOT NULL,              -- that took them
  taken_ms       INTEGER NOT NULL,
  manifest       BLOB NOT NULL,
  PRIMARY KEY (point_id, lun)
) STRICT;
