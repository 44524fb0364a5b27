-- What a run goes on from; the file is below `runs/<run id>/`, whole and durable before its row is written.
create table checkpoints (
    run_id text not null references runs (id) on delete cascade,
    sequence integer not null,
    file text not null,
    sha256 text not null check (length(sha256) = 64),
    byte_length integer not null,
    -- the next batch to be trained on
    stage integer not null,
    step integer not null,
    epoch integer not null,
    batch integer not null,
    -- epochs of the run that were done
    epochs integer not null,
    -- batches that the run had trained
    steps integer not null,
    created_at text not null,
    primary key (run_id, sequence)
) strict;

-- how often the run was started since its last checkpoint: one that ends the process each time is not tried for ever
alter table runs add column starts integer not null default 0;
