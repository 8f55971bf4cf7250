-- What was seen of a capture (JSON), by its attempt: kept as long as its point. None for points from
-- before, and after a rebuild.
CREATE TABLE capture (
  operation_id   TEXT PRIMARY KEY,
  record_json    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- People do not mind case in names, and two VMs may have points of one name.
CREATE INDEX point_by_name_nocase ON point (name COLLATE NOCASE);
DROP INDEX point_by_name;
