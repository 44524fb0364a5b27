-- What makes runs comparable image by image, and what a run has to know to be repeated.

-- what a model made of each image of an evaluation, written with the evaluation's row; evaluations of before have none
create table outcomes (
    evaluation_id text not null references evaluations (id) on delete cascade,
    -- of the radiograph's bytes: it says which image was meant after the radiograph's row is gone
    sha256 text not null check (length(sha256) = 64),
    -- places in evaluations.classes_json
    truth integer not null check (truth >= 0),
    predicted integer not null check (predicted >= 0),
    -- in the order of evaluations.classes_json
    probabilities_json text not null check (json_valid(probabilities_json)),
    primary key (evaluation_id, sha256)
) strict, without rowid;

-- the run that this one does again; the numbers of a repetition stay when the first run is removed
alter table runs add column repeats text references runs (id) on delete set null;
-- the weights the run starts from: known beforehand where it repeats a run, else from its start on; null for random ones
alter table runs add column initial_weights_sha256 text check (length(initial_weights_sha256) = 64);
create index runs_by_repeats on runs (repeats);

-- on what and by which program a run was trained, from its first start; runs of before have no row
create table run_provenance (
    run_id text primary key references runs (id) on delete cascade,
    device text not null,
    device_backend text not null,
    device_description text not null,
    version text not null,
    -- null when the program was built outside a git repository
    git_commit text,
    recorded_at text not null
) strict;

-- the images as they were trained on, after validation was carved from train: radiographs may go, and carving is the run's own
create table run_images (
    run_id text not null references runs (id) on delete cascade,
    sha256 text not null check (length(sha256) = 64),
    split text not null check (split in ('train', 'validation', 'test')),
    label text not null,
    primary key (run_id, sha256)
) strict, without rowid;
