-- What is watched of the models that answer.

-- the key that asked; null where none is needed
alter table predictions add column key_name text;
-- what a clinician says it is, and when that was said
alter table predictions add column feedback text;
alter table predictions add column feedback_at text;
-- what the model said and what was said of it, without reading the rows
create index predictions_by_feedback on predictions (model_id, prediction, feedback) where feedback is not null;

-- counts of a model's predictions in an hour (domain/live.rs); they stay when single predictions are removed
create table live_hours (
    -- no foreign key: a model that is removed while its last predictions are written must not keep those of others from being written
    model_id text not null,
    hour text not null,
    counts_json text not null check (json_valid(counts_json)),
    primary key (model_id, hour)
) strict, without rowid;

-- what the images that a model was trained on are like, counted once from their looks
create table baselines (
    model_id text primary key references models (id) on delete cascade,
    inputs_json text not null check (json_valid(inputs_json))
) strict, without rowid;

-- what the challenger said about images that another model answered
create table shadows (
    prediction_id text primary key,
    model_id text not null,
    -- the class that the client was told, and the challenger's
    answered text not null,
    prediction text not null,
    probabilities_json text not null check (json_valid(probabilities_json)),
    created_at text not null
) strict, without rowid;
create index shadows_by_model on shadows (model_id, answered, prediction);
create index shadows_that_differ on shadows (model_id, prediction_id) where answered <> prediction;
