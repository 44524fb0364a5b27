-- Scoring of a whole data set or archive in the background.
create table prediction_jobs (
    id text primary key,
    model_id text not null,
    -- the classes of the model, for results outlive it: columns of the table that is made of them
    classes_json text not null check (json_valid(classes_json)),
    -- whose radiographs; null for an archive, which is `jobs/<id>.archive` until the job has ended
    dataset_id text,
    split text check (split in ('train', 'validation', 'test')),
    status text not null check (status in ('queued', 'running', 'succeeded', 'failed')),
    total integer not null,
    answered integer not null default 0,
    failed integer not null default 0,
    -- of these, how many were done when it was begun last: its rate is that of the others
    done_before integer not null default 0,
    error text,
    created_at text not null,
    -- when it was begun last
    started_at text,
    finished_at text
) strict;
create index prediction_jobs_by_status on prediction_jobs (status, id);

create table prediction_job_results (
    job_id text not null references prediction_jobs (id) on delete cascade,
    -- the image's place in the archive or data set, from 0
    sequence integer not null,
    radiograph_id text,
    file_name text not null,
    -- null where the file could not be read
    sha256 text check (length(sha256) = 64),
    -- of the radiograph, where it has one
    label text,
    -- null where there is no answer; then there is a problem
    prediction text,
    probabilities_json text check (json_valid(probabilities_json)),
    problem text,
    primary key (job_id, sequence)
) strict, without rowid;
