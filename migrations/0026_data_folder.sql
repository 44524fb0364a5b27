-- The data folder that the database belongs to: one row.
create table data_folder (
    only_row integer primary key check (only_row = 1),
    -- random, also in the file data-folder.json: files are removed only where the two agree; null before the first start
    id text check (length(id) = 32),
    -- latest time at which a server ran, also in the file: an older copy of the database has an earlier one, and a clock that is far ahead
    -- of it is not believed by the retention; null before the first start
    seen_at text
) strict;
insert into data_folder (only_row) values (1);
