-- What happened to a run, for those who watch it: written in the transaction of what it tells.
create table run_events (
    run_id text not null references runs (id) on delete cascade,
    -- counts up from 1 within the run: what `Last-Event-ID` names
    id integer not null check (id > 0),
    event_json text not null check (json_valid(event_json)),
    created_at text not null,
    primary key (run_id, id)
) strict, without rowid;

-- How many batches a run has trained so far. The points below are thinned, so that they cannot say.
create table loss_curves (
    run_id text primary key references runs (id) on delete cascade,
    steps integer not null
) strict, without rowid;

-- The loss of single batches, thinned to at most 2,000 a run (domain/losses.rs).
create table loss_points (
    run_id text not null references loss_curves (run_id) on delete cascade,
    -- batches trained in the run up to this one, from 1
    step integer not null check (step > 0),
    stage integer not null,
    loss real not null,
    primary key (run_id, step)
) strict, without rowid;
