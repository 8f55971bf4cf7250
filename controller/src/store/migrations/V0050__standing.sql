-- All that the retention rules have to know of a point's own row, by VM: the rows themselves are far
-- apart and long. The number of disks is that of the description.
DROP INDEX point_by_item;
CREATE INDEX point_by_item ON point
  (item_id, created_ms, id, name, region, tiers_json, json_array_length(description_json, '$.disks'));

-- How many runs of each workflow are in which state, and the newest of a rare one, without a look at
-- every run there ever was.
CREATE INDEX run_by_workflow ON run (workflow, state, id);
