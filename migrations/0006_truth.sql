-- What the report on a data set needs beside the rows of its radiographs.

-- A small plane of each image, made as the image comes in: what looks alike is found without decoding anything again.
create table looks (
    radiograph_id text primary key references radiographs (id) on delete cascade,
    -- imaging::LOOK_VERSION that made it; what another version made is made anew
    version integer not null,
    -- 256 bits (imaging/look.rs); null where the image has too little detail to be told from another
    hash blob check (length(hash) = 32),
    -- 64 x 64 grey bytes, row by row
    plane blob not null check (length(plane) = 4096)
) strict, without rowid;

-- What a folder's `sources.csv` says about an image as its collection published it.
create table radiograph_attributes (
    radiograph_id text primary key references radiographs (id) on delete cascade,
    collection text,
    -- in whole years; 90 stands for all above
    age_years integer check (age_years between 0 and 90),
    sex text check (sex in ('female', 'male')),
    -- of the file that the collection published, which may not be the one that was imported
    original_width integer,
    original_height integer,
    original_mode text,
    original_format text,
    licence text
) strict, without rowid;

-- What is wrong with a rejected row or file, for those who count; the reason says it in words.
alter table import_rejections add column kind text not null default 'unusable'
    check (kind in ('unusable', 'contradiction', 'row-without-file', 'file-without-row'));
