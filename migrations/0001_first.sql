-- Times are RFC 3339 UTC text; identifiers are UUIDv7 text, so they sort by creation; *_json columns hold domain types as JSON.

create table datasets (
    id text primary key,
    name text not null unique,
    description text,
    classes_json text not null check (json_valid(classes_json)),
    -- drawn by `thorax demo`: no real patient; every answer about it says so
    synthetic integer not null default 0 check (synthetic in (0, 1)),
    created_at text not null
) strict;

create table radiographs (
    id text primary key,
    dataset_id text not null references datasets (id) on delete cascade,
    -- SHA-256 of the uploaded bytes: tells duplicates; also the name of the stored blob
    sha256 text not null check (length(sha256) = 64),
    file_name text not null,
    label text,
    -- a keyed hash when THORAX_PATIENT_KEY is set
    patient_id text,
    source text,
    view text,
    split text check (split in ('train', 'validation', 'test')),
    width integer not null,
    height integer not null,
    format text not null,
    byte_length integer not null,
    created_at text not null,
    unique (dataset_id, sha256)
) strict;
create index radiographs_by_split on radiographs (dataset_id, split, label);
-- the pages of a data set's list
create index radiographs_by_dataset on radiographs (dataset_id, id);
-- whether another row names a blob
create index radiographs_by_sha256 on radiographs (sha256);

create table imports (
    id text primary key,
    dataset_id text not null references datasets (id) on delete cascade,
    path text not null,
    status text not null check (status in ('running', 'succeeded', 'failed')),
    total integer not null default 0,
    created integer not null default 0,
    duplicates integer not null default 0,
    rejected integer not null default 0,
    error text,
    started_at text not null,
    finished_at text
) strict;
create index imports_by_dataset on imports (dataset_id);

create table import_rejections (
    import_id text not null references imports (id) on delete cascade,
    sequence integer not null,
    file text not null,
    -- the line of the split file, from 1; null for a file without one
    line integer,
    reason text not null,
    primary key (import_id, sequence)
) strict;

create table runs (
    id text primary key,
    -- a run outlives its data set: its numbers stay
    dataset_id text not null,
    dataset_fingerprint text not null,
    name text,
    recipe text,
    plan_json text not null check (json_valid(plan_json)),
    seed integer not null,
    status text not null check (status in ('queued', 'running', 'paused', 'cancelling', 'cancelled', 'failed', 'succeeded')),
    progress_json text not null check (json_valid(progress_json)),
    device text,
    error text,
    created_at text not null,
    started_at text,
    finished_at text
) strict;
create index runs_by_status on runs (status, id);
create index runs_by_dataset on runs (dataset_id, status);

create table epochs (
    run_id text not null references runs (id) on delete cascade,
    sequence integer not null,
    record_json text not null check (json_valid(record_json)),
    primary key (run_id, sequence)
) strict;

create table models (
    id text primary key,
    run_id text references runs (id) on delete set null,
    stage integer,
    name text not null,
    -- SHA-256 of the safetensors file, also the name of the stored blob
    sha256 text not null check (length(sha256) = 64),
    byte_length integer not null,
    -- nn::ModelSpec: architecture, classes, input size, normalisation
    spec_json text not null check (json_valid(spec_json)),
    synthetic integer not null default 0 check (synthetic in (0, 1)),
    created_at text not null
) strict;
create index models_by_run on models (run_id, id);
create index models_by_sha256 on models (sha256);

create table aliases (
    alias text primary key,
    model_id text not null references models (id) on delete restrict,
    updated_at text not null
) strict;
create index aliases_by_model on aliases (model_id);

create table evaluations (
    id text primary key,
    model_id text not null references models (id) on delete cascade,
    run_id text references runs (id) on delete cascade,
    stage integer,
    dataset_id text not null,
    dataset_fingerprint text not null,
    split text not null check (split in ('train', 'validation', 'test')),
    -- which split chose the epoch: scores on that same split are optimistic
    selection_split text check (selection_split in ('train', 'validation', 'test')),
    classes_json text not null check (json_valid(classes_json)),
    confusion_json text not null check (json_valid(confusion_json)),
    loss real not null,
    seconds real not null,
    created_at text not null
) strict;
create index evaluations_by_run on evaluations (run_id, stage, split);
create index evaluations_by_model on evaluations (model_id, id);

-- one row a class, so that precision, recall and F1 can be asked for in SQL
create table class_metrics (
    evaluation_id text not null references evaluations (id) on delete cascade,
    class text not null,
    precision real not null,
    recall real not null,
    f1 real not null,
    specificity real not null,
    support integer not null,
    primary key (evaluation_id, class)
) strict;

create table predictions (
    id text primary key,
    model_id text not null,
    input_sha256 text not null check (length(input_sha256) = 64),
    prediction text not null,
    probabilities_json text not null check (json_valid(probabilities_json)),
    timing_json text not null check (json_valid(timing_json)),
    created_at text not null
) strict;

create table weights (
    -- SHA-256 of the converted safetensors file, also the name of the stored blob
    sha256 text primary key check (length(sha256) = 64),
    -- 'resnet50' (stride on the first 1x1) or 'resnet50-v1.5' (on the 3x3)
    variant text not null check (variant in ('resnet50', 'resnet50-v1.5')),
    origin text not null,
    byte_length integer not null,
    created_at text not null
) strict;

-- which rows name which blob, and whose they are: a blob that none names may be removed
create view blob_names as
select sha256, dataset_id as owner from radiographs
union all
select sha256, id as owner from models
union all
select sha256, sha256 as owner from weights;
