-- Recall and F1 of a class without images in the split are undefined: null, not 0.
create table class_metrics_new (
    evaluation_id text not null references evaluations (id) on delete cascade,
    class text not null,
    precision real not null,
    -- null if support is 0
    recall real,
    -- null if support is 0
    f1 real,
    specificity real not null,
    support integer not null,
    primary key (evaluation_id, class)
) strict;
insert into class_metrics_new (evaluation_id, class, precision, recall, f1, specificity, support)
    select evaluation_id, class, precision, iif(support > 0, recall, null), iif(support > 0, f1, null), specificity, support
    from class_metrics;
drop table class_metrics;
alter table class_metrics_new rename to class_metrics;
