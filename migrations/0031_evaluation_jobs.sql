-- A prediction job that stores an evaluation when it ends. Null for the others.
alter table prediction_jobs add column evaluation_id text;
-- Fingerprint of the data set at the request: an evaluation names the data that its predictions are about.
alter table prediction_jobs add column dataset_fingerprint text;
-- Attributes by which the client wants the scores, as a list.
alter table prediction_jobs add column group_by_json text check (json_valid(group_by_json));
create unique index prediction_jobs_by_evaluation on prediction_jobs (evaluation_id) where evaluation_id is not null;
