-- What the rules of a generation leave out of its sources: a JSON array of source, reason and number of rows; empty for a folder.
alter table imports add column passed_over_json text not null default '[]' check (json_valid(passed_over_json));
