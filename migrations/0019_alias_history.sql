-- every move of an alias; a model that was deleted since stays in it
create table alias_history (
    sequence integer primary key,
    alias text not null,
    model_id text not null,
    moved_at text not null
) strict;
create index alias_history_by_alias on alias_history (alias, sequence);
-- where the aliases of before point, as far as that is known
insert into alias_history (alias, model_id, moved_at) select alias, model_id, updated_at from aliases order by updated_at;
