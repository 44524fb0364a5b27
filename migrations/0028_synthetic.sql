-- 1 for a synthetic phantom, recognised by the mark in its file. A data set with one of them is synthetic, as one is that was created so.
alter table radiographs add column synthetic integer not null default 0 check (synthetic in (0, 1));
create index radiographs_synthetic on radiographs (dataset_id) where synthetic = 1;

-- 1 for a run on a synthetic data set, which it may outlive; its models have the same column.
alter table runs add column synthetic integer not null default 0 check (synthetic in (0, 1));
update runs set synthetic = 1
    where dataset_id in (select id from datasets where synthetic = 1) or id in (select run_id from models where synthetic = 1);

-- Duplicates whose label, split, patient or view differs from that of the stored radiograph: their number, and a row for each.
alter table imports add column conflicting integer not null default 0 check (conflicting >= 0);
create table import_conflicts (
    import_id text not null references imports (id) on delete cascade,
    sequence integer not null,
    file text not null,
    -- the line of the label file, from 1; null for a file without one
    line integer,
    radiograph_id text not null,
    -- names of the fields that differ
    differs_json text not null check (json_valid(differs_json)),
    primary key (import_id, sequence)
) strict;
